"""What all tests share: both MPIs, and jobs that leave nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import Jobs, Mpi, installed, nothing_left
from tests.slurm.fixtures import (  # noqa: F401 - fixtures
    mpich_python,
    openmpi_python,
    session_cluster,
    shared_directories,
    slurm_cluster,
)


def pytest_configure() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def mpich() -> Mpi:
    return installed("mpich")


@pytest.fixture(scope="session")
def dashboard() -> Mpi:
    """MPICH in the environment that has Ray's dashboard and job API."""
    return installed("dashboard")


@pytest.fixture(params=["mpich", "openmpi"])
def mpi(request: pytest.FixtureRequest) -> Mpi:
    return installed(request.param)


def _jobs(mpi: Mpi, directory: Path) -> Iterator[Jobs]:
    jobs = Jobs(mpi, directory)
    names = lambda: [path for path in directory.iterdir() if path.is_dir()]  # noqa: E731
    try:
        yield jobs
    finally:
        jobs.close()
        for path in names():
            with nothing_left(path):
                pass


@pytest.fixture
def jobs(mpich: Mpi, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs under MPICH; afterwards nothing of them is left."""
    yield from _jobs(mpich, tmp_path)


@pytest.fixture
def jobs_of(mpi: Mpi, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs under each MPI; afterwards nothing of them is left."""
    yield from _jobs(mpi, tmp_path)


@pytest.fixture
def jobs_with_dashboard(dashboard: Mpi, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that may have Ray's dashboard; afterwards nothing of them is left."""
    yield from _jobs(dashboard, tmp_path)
