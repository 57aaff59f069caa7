"""Many runs in a row, two at a time: what a run takes it gives back, also in the small."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.cells import FAULTS, Cell, met
from tests.launch import Job, Jobs, until

pytestmark = pytest.mark.cluster

# How many runs; an odd one is alone in its turn.
CYCLES = "RAYHPC_SOAK_CYCLES"
DRIVER = "import ray; ray.init(log_to_driver=False); print(ray.get(ray.remote(lambda: 6).remote()) * 7)"
_PLACES = ("/dev/shm", "/tmp", "/var/tmp")


def counts(own: Path) -> dict[str, frozenset[str]]:
    """What the machine holds: our processes, the descriptors of this test, the entries of the shared directories.

    own: where this test works, whose entries grow with each run's record and do not count.
    """
    found = {place: frozenset(os.listdir(place)) - {own.parts[2]} for place in _PLACES}
    return {**found, "processes": _processes(own), "descriptors": frozenset(os.listdir("/proc/self/fd"))}


def _processes(own: Path) -> frozenset[str]:
    """Processes that work in this test's directory, or whose environment or command line names it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            seen = os.readlink(entry / "cwd") + (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if str(own) in seen:
            found.add(entry.name)
    return frozenset(found)


def soak(jobs: Jobs, cycles: int, check: Callable[[int], None]) -> None:
    """Run so many jobs, two at a time, and check after each pair."""
    for first in range(0, cycles, 2):
        pair = [turn(jobs, number) for number in range(first, min(first + 2, cycles))]
        for job in pair:
            assert job.wait(180) == 0, job.output()
            assert "\n42\n" in job.output()
        check(min(first + 2, cycles))


def turn(jobs: Jobs, number: int) -> Job:
    """One run of two ranks in a directory of its own."""
    return jobs.start("--logs=never", "--", "python", "-c", DRIVER, ranks=2, name=f"turn-{number}")


def grown(before: dict[str, frozenset[str]], own: Path) -> dict[str, list[str]]:
    """What there is now that was not there before; of /tmp and /dev/shm only what a run of ours may have made."""
    now = counts(own)
    fresh = {what: sorted(now[what] - before[what]) for what in now}
    marks = ("rh-", "ray", "plasma", "mpich", "vader_segment", "psm", "ompi", "prte", "tmp", "torch", "openmpi")
    for place in _PLACES:
        fresh[place] = [name for name in fresh[place] if name.startswith(marks)]
    return {what: names for what, names in fresh.items() if names}


@pytest.mark.timeout(3600)
def test_what_is_taken_is_given_back(jobs: Jobs) -> None:
    """Processes, descriptors, /dev/shm and /tmp are after each pair what they were before the first."""
    cycles = int(os.environ.get(CYCLES, "50"))
    _soak_and_compare(jobs, cycles)
    outcome = "processes, descriptors of the caller, /dev/shm, /tmp and /var/tmp as before"
    met(Cell(FAULTS, f"{cycles} runs, two at a time; MPICH, one host", outcome))


@pytest.mark.quick
def test_four_runs_give_back(jobs: Jobs) -> None:
    """The same, in a minute."""
    _soak_and_compare(jobs, 4)


def _soak_and_compare(jobs: Jobs, cycles: int) -> None:
    own = jobs.directory
    before = counts(own)

    def check(done: int) -> None:
        assert until(lambda: not grown(before, own), 5), (done, grown(before, own))

    soak(jobs, cycles, check)
