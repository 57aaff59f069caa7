"""A process that watches over a rank in MPI_Init, where Python has no say: it tells who waits, and cleans up.

MPI_Init keeps Python's lock while it waits for the other ranks, so no thread and no signal handler of the rank could do
it. A rank that is killed there leaves the shared memory by which it meets the others, and its launcher, if that is
killed as well, a file with the host's topology.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rayhpc.host import this_host
from rayhpc.ranks import launcher
from rayhpc.ranks.launcher import Launched

LATE_SECONDS = 10.0
# Of larger launches rank 0 and rank 1, for the case that rank 0 is missing, speak for all.
_MOST_SPEAKERS = 16
_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def watched(start: Launched) -> Iterator[None]:
    """Let a process watch over this one inside of the block; it ends with the block, or after this process.

    To be entered before this process has threads.
    """
    reading, writing = os.pipe()  # not inherited by what is executed: it is closed when this process ends
    rank, began = os.getpid(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        try:
            _watch(reading, rank, start, began)
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it
            os.write(writing, b"1")
        os.close(writing)
        os.waitpid(pid, 0)


def _watch(reading: int, rank: int, start: Launched, began: float) -> None:
    """Tell once that the rank waits; when it ends meanwhile, unlink what it has left."""
    os.setsid()
    for signum in _IGNORED:  # they are meant for the rank; this process ends after it
        signal.signal(signum, signal.SIG_IGN)
    topology: list[Path] = []
    shared: list[Path] = []
    speaks = start.rank is None or start.rank < 2 or (start.size or 0) <= _MOST_SPEAKERS
    pause = _FIRST_PAUSE
    while not select.select([reading], [], [], pause)[0]:
        topology = topology or launcher.topology_files()
        shared = launcher.shared_memory(rank) or shared
        pause = min(_LAST_PAUSE, pause * 2)
        if speaks and time.monotonic() > began + LATE_SECONDS:
            speaks = False
            sys.stderr.write(waits(start, rank) + "\n")
            sys.stderr.flush()
    if not os.read(reading, 1):
        for path in [*shared, *topology]:
            path.unlink(missing_ok=True)


def waits(start: Launched, pid: int) -> str:
    """The sentence about a rank that waits."""
    number = "a rank" if start.rank is None else f"rank {start.rank}"
    of = f" of {start.size}" if start.size else ""
    who = f"{number}{of} on {this_host.name()} (pid {pid}, started by {start.by})"
    return (
        f"rayhpc: {who} has waited {LATE_SECONDS:g} s in MPI_Init: some rank has not come there. "
        "Look for one that says nothing like this, for its process on its host, and at the launcher's --mpi"
    )
