"""Many runs in a row, two at a time: what a run takes it gives back, also in the small."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cells import FAULTS, Cell, met
from tests.launch import skip
from tests.slurm.slurm_cluster import SlurmCluster, virtual_cluster, why_unavailable
from tests.slurm.test_jobscript import active

pytestmark = pytest.mark.slurm

CYCLES = "RAYHPC_SOAK_CYCLES"
HOST = "node1"
DRIVER = "import ray; ray.init(log_to_driver=False); print(ray.get(ray.remote(lambda: 6).remote()) * 7)"
_RUN_SECONDS = 120.0
_GIVEN_BACK_SECONDS = 5.0


@pytest.fixture
def host(shared_directories: tuple[Path, ...]) -> Iterator[SlurmCluster]:
    """A virtual host: no other test of this machine has processes on it, or files in its /tmp and /dev/shm."""
    if reason := why_unavailable():
        skip(reason)
    settings = {"VH_NETWORKS": "eth0=10.233.0"}
    with virtual_cluster(1, Path(f"/var/lib/virtual-hosts-soak-{os.getpid()}"), shared_directories, settings) as made:
        yield made


def start(host: SlurmCluster, directory: Path, python: Path) -> subprocess.Popen[str]:
    """One run of two ranks in a directory of its own."""
    directory.mkdir()
    words = ["-np", "2", python, "-m", "rayhpc.start", "--num-cpus=1", "--", "python", "-c", DRIVER]
    with (directory / "output").open("w") as output:
        return host.start(
            HOST, python.with_name("mpirun"), *words, cwd=directory, env=active(python), stdout=output,
        )  # fmt: skip


def descriptors() -> int:
    """The open files of this test."""
    return len(os.listdir("/proc/self/fd"))


def soak(host: SlurmCluster, place: Path, python: Path, cycles: int) -> None:
    """Run so many jobs, two at a time; after each pair nothing is on the host that was not there before."""
    before = descriptors()
    for first in range(0, cycles, 2):
        directories = [place / f"run-{number}" for number in range(first, min(first + 2, cycles))]
        pair = [start(host, directory, python) for directory in directories]
        for directory, process in zip(directories, pair, strict=True):
            code = process.wait(_RUN_SECONDS)
            output = (directory / "output").read_text()
            assert (code, output.count("\n42\n")) == (0, 1), output
        host.assert_nothing_left(_GIVEN_BACK_SECONDS)
        assert descriptors() == before, f"after {first + 2} runs"


def record(cycles: int, seconds: float) -> None:
    outcome = "after each pair no process, no entry of /tmp, /var/tmp and /dev/shm, no descriptor of the caller more"
    met(Cell(FAULTS, f"{cycles} runs, two at a time ({seconds / cycles:.1f} s each); MPICH, one host", outcome))


@pytest.mark.timeout(3600)
def test_what_is_taken_is_given_back(host: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """Fifty runs, or as many as RAYHPC_SOAK_CYCLES says."""
    cycles, began = int(os.environ.get(CYCLES, "50")), time.monotonic()
    soak(host, tmp_path, mpich_python, cycles)
    record(cycles, time.monotonic() - began)


@pytest.mark.quick
def test_four_runs(host: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """The same in a minute."""
    soak(host, tmp_path, mpich_python, 4)
