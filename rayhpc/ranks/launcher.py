"""What MPI and its launcher hold for the ranks of a host: files by which they find each other, pipes to write to."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import stat
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SRUN = "srun"

_TOPOLOGY = "/tmp/hydra_hwloc_xmlfile_"
# MPICH's mpiexec lost the last words of 10 of 140 aborts on a busy machine.
_DELIVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Launched:
    """What the environment says of how this process was launched; None where it does not say."""

    by: str
    rank: int | None
    size: int | None


# The launcher's name, its variables for a process's rank and the number of processes, and one more that must be there.
# Hydra stands before srun, since Slurm's variables are also in what mpiexec starts inside a job, and after it once
# more, since PMI_RANK is also what srun --mpi=pmi2 sets.
_LAUNCHERS = (
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ""),
    ("MVAPICH's mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", ""),
    ("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    (SRUN, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ""),
    ("mpiexec", "PMI_RANK", "PMI_SIZE", ""),
    ("PMIx", "PMIX_RANK", "", ""),
    ("aprun", "ALPS_APP_PE", "", ""),
    ("PALS", "PALS_RANKID", "", ""),
)


def launched(environ: Mapping[str, str]) -> Launched | None:
    """How this process was launched; None for a process that was simply started."""
    for by, rank, size, proof in _LAUNCHERS:
        if all(name in environ for name in (rank, size, proof) if name):
            return Launched(by, _number(environ, rank), _number(environ, size))
    return None


def on_hosts(many: int, environ: Mapping[str, str]) -> str:
    """The words that start a rank on each of so many hosts of this job."""
    if "SLURM_JOB_ID" not in environ:
        return f"mpiexec -n {many} -ppn 1 … (Open MPI: mpirun -np {many} --map-by ppr:1:node …)"
    last = _number(environ, "SLURM_HET_SIZE")
    groups = f"--het-group=0-{last - 1}" if last else f"--nodes={many}"
    return f"srun --mpi=pmi2 {groups} --ntasks-per-node=1 … (Open MPI: --mpi=pmix)"


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None


def may_print(environ: Mapping[str, str]) -> bool:
    """True for the one process of a launch that may print before the ranks have met."""
    start = launched(environ)
    return environ.get("RAYHPC_RANK", "0") == "0" and (start is None or start.rank in (0, None))


def shared_memory(pid: int | str = "self") -> list[Path]:
    """What a process of ours has mapped of /dev/shm; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    names = [line.partition("/dev/shm/")[2] for line in lines]
    return [Path("/dev/shm", name) for name in names if name and not name.endswith(" (deleted)")]


def topology_files() -> list[Path]:
    """The host's topology in /tmp, which the proxy of MPICH's mpiexec, our nearest one, keeps open for its ranks."""
    for pid in _ancestors():
        if found := [Path(name) for name in _open_files(pid) if name.startswith(_TOPOLOGY)]:
            return found
    return []


def _ancestors() -> Iterator[int]:
    pid = os.getppid()
    with contextlib.suppress(OSError):  # one that ends meanwhile has none above it that is ours
        while pid > 1:
            yield pid
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _open_files(pid: int) -> Iterator[str]:
    """The names of what a process has open; nothing of another account's."""
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield str(file.readlink())


def wait_for_readers() -> None:
    """Wait until standard output and error, where they are pipes, have been read; a second at most."""
    end = time.monotonic() + _DELIVERY_SECONDS
    while any(_unread(descriptor) for descriptor in (1, 2)) and time.monotonic() < end:
        time.sleep(0.001)


def _unread(descriptor: int) -> int:
    """Bytes in a pipe that nobody has read yet; 0 for anything else."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return 0
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]
