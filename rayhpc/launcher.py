"""What MPI and its launcher hold for the ranks of a host: files by which they find each other, pipes to write to."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import stat
import termios
import time
from collections.abc import Iterator
from pathlib import Path

_TOPOLOGY = "/tmp/hydra_hwloc_xmlfile_"
# MPICH's mpiexec lost the last words of 10 of 140 aborts on a busy machine.
_DELIVERY_SECONDS = 1.0


def shared_memory() -> list[Path]:
    """What this process has mapped of /dev/shm."""
    lines = Path("/proc/self/maps").read_text().splitlines()
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
