"""`--check` under real mpiexec: all ranks meet, look and leave; no Ray is started and nothing is left."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.launch import Jobs, installed, launch_raw, nothing_left

pytestmark = pytest.mark.mpi
# What depends on the machine of the tests, and on what else runs there.
OF_THE_MACHINE = "host-name,other-ray,ray-token,shm,cgroup,speed,import-ray,binding,home,proxy"
WELL = r"rayhpc doctor: \d+ checks on 1 host in [0-9.]+ s: all is well\n"


@pytest.mark.parametrize("ranks", [0, 1, 4])
def test_ranks_that_are_well_say_one_line(jobs_of: Jobs, ranks: int) -> None:
    job = jobs_of.start("--check", "--check-skip", OF_THE_MACHINE, ranks=ranks)
    assert job.wait(60) == 0, job.output()
    assert re.fullmatch(WELL, job.output()), job.output()
    assert not (job.directory / "rayhpc-runs").exists()


def test_a_failure_ends_the_launch_before_the_driver(jobs_of: Jobs) -> None:
    job = jobs_of.start("--check", "--check-skip", OF_THE_MACHINE, "--temp-dir", "/nowhere", "touch", "here", ranks=2)
    assert job.wait(60) == 78, job.output()
    assert job.output().count("fail  temp-dir: --temp-dir /nowhere cannot be used") == 1
    assert "exit code 78" in job.output()
    assert not (job.directory / "here").exists()


def test_a_check_that_does_not_exist_is_told_once(jobs_of: Jobs) -> None:
    job = jobs_of.start("--check", "--check-skip", "nonsense", ranks=2)
    assert job.wait(60) == 2, job.output()
    assert job.output().count("there is no check 'nonsense'") == 1


def test_a_launcher_that_binds(tmp_path: Path) -> None:
    """Open MPI binds each rank to a core where it has cores enough."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: nothing to bind to")
    openmpi = installed("openmpi")
    words = ("--check", "--check-skip", OF_THE_MACHINE.replace("binding,", ""))
    start = (*openmpi.mpirun, "--bind-to", "core", "-np", "1", openmpi.python, "-m", "rayhpc.start", *words)
    with nothing_left(tmp_path):
        job = launch_raw(openmpi, tmp_path, start)
        assert job.wait(60) == 0, job.output()
    assert "warn  binding: Open MPI's mpirun has bound the ranks" in job.output()


def test_the_launcher_of_another_mpi(jobs: Jobs) -> None:
    """Each of its processes would be rank 0 of 1."""
    openmpi = installed("openmpi")
    job = jobs.start_raw(*jobs.mpi.mpirun, "-np", "3", openmpi.python, "-m", "rayhpc.start", "--check")
    assert job.wait(60) == 78, job.output()
    assert job.output().count("fail  ranks-meet: mpiexec started 3 processes, but MPI sees 1") == 1, job.output()
