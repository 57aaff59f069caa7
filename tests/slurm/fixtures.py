"""Fixtures for tests on several virtual hosts; where those cannot run, skip with the reason.

With RAYHPC_REQUIRE_ALL=1 in the environment every such skip is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import skip

from .slurm_cluster import SlurmCluster, virtual_cluster, why_unavailable

NODES = 4
REPOSITORY = Path(__file__).resolve().parents[2]
_INTERPRETERS = {
    "RAYHPC_TEST_MPICH_PYTHON": REPOSITORY / ".venv" / "bin" / "python",
    "RAYHPC_TEST_OPENMPI_PYTHON": REPOSITORY / ".venv-openmpi" / "bin" / "python",
}


def _interpreter(variable: str) -> Path:
    return Path(os.environ.get(variable) or _INTERPRETERS[variable])


def _python_with_mpi(variable: str) -> Path:
    """The interpreter that `variable` names, or the repository's own; skips if it cannot import mpi4py."""
    python = _interpreter(variable)
    if not python.exists():
        skip(f"{python} does not exist; make that environment, or set {variable}")
    trial = subprocess.run([python, "-c", "import mpi4py"], capture_output=True, text=True, check=False)
    if trial.returncode:
        skip(f"{python} cannot import mpi4py: {trial.stderr.strip()[-200:]}; set {variable} to one that can")
    return python


@pytest.fixture(scope="session")
def mpich_python() -> Path:
    """A Python with mpi4py over MPICH; its `mpiexec` is beside it."""
    return _python_with_mpi("RAYHPC_TEST_MPICH_PYTHON")


@pytest.fixture(scope="session")
def openmpi_python() -> Path:
    """A Python with mpi4py over Open MPI; its `mpiexec` is beside it."""
    return _python_with_mpi("RAYHPC_TEST_OPENMPI_PYTHON")


@pytest.fixture(scope="session")
def shared_directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """What hosts must share even if it lies under /tmp: tests' directories, the repository, the interpreters.

    RAYHPC_TEST_SHARED_DIRS adds more, separated by colons.
    """
    named = [Path(name) for name in os.environ.get("RAYHPC_TEST_SHARED_DIRS", "").split(":") if name]
    pythons = [Path(sys.executable), *map(_interpreter, _INTERPRETERS)]
    # An environment's interpreter is a link into the installation that made it: both are needed.
    homes = [start.parent.parent for python in pythons for start in (python, python.resolve())]
    return (tmp_path_factory.getbasetemp(), REPOSITORY, *homes, *named)


@pytest.fixture(scope="session")
def session_cluster(shared_directories: tuple[Path, ...]) -> Iterator[SlurmCluster]:
    """Four nodes and a controller for the whole session, in whatever state the last test left them."""
    if reason := why_unavailable():
        skip(reason)
    with virtual_cluster(NODES, Path(f"/var/lib/virtual-hosts-{os.getpid()}"), shared_directories) as cluster:
        yield cluster


@pytest.fixture
def slurm_cluster(session_cluster: SlurmCluster) -> SlurmCluster:
    """The session's cluster, whole again: all hosts up and idle, no jobs, no processes or files of earlier tests."""
    session_cluster.make_whole()
    return session_cluster
