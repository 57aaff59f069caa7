"""What a job has written, and what it goes on to write."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rayhpc.batch import status
from rayhpc.batch.allocations import Allocation
from rayhpc.batch.status import Seen
from rayhpc.errors import configuration
from rayhpc.schedulers.facts import State

# How often the file is looked at; the scheduler is asked far less often.
_LOOK_SECONDS = 0.25
# A shared file system may show the last lines some time after the job's end.
_LATE_SECONDS = 0.5


def show(allocation: Allocation, sink: IO[bytes]) -> None:
    """Copy what the job has written so far; raises RayhpcError if that is nothing."""
    if not _Tail(allocation).copy(sink):
        raise configuration(
            f"job {allocation.job_id} has written nothing yet",
            f"file: {allocation.output}",
            next_step=f"rayhpc alloc show {shlex.quote(allocation.job_id)}, or logs -f to wait for it",
        )


def follow(allocation: Allocation, sink: IO[bytes], tell: Callable[[str], None]) -> Seen:
    """Copy what the job writes until it has ended, or is not known any more; what was seen of it last."""
    tail = _Tail(allocation)
    lost, told = 0, ""
    for pause in status.pauses():
        (seen,), faults = status.current([allocation])
        allocation, state = seen.allocation, seen.state
        lost = lost + 1 if seen.lost and not faults else 0
        if state.ended or lost >= status.ASKED_FOR_A_LOST_JOB:
            break
        if state.state is State.PENDING and seen.words != told:
            told = seen.words
            tell(f"job {allocation.job_id} {told}")
        tail.copy_until(time.monotonic() + pause, sink)
    tail.copy_until(time.monotonic() + _LATE_SECONDS, sink)
    tail.drain(sink)
    return seen


class _Tail:
    """The end of a file that grows."""

    def __init__(self, allocation: Allocation) -> None:
        self._files = (allocation.output, allocation.scheduler_output)
        self._file: Path | None = None
        self._read = 0

    def copy(self, sink: IO[bytes]) -> int:
        """Copy what is new; how many bytes that were. A file that was cut short is read from its beginning."""
        self._file = self._file or next((file for file in self._files if file.exists()), None)
        if self._file is None:
            return 0
        copied = 0
        with self._file.open("rb") as source:
            self._read = self._read if self._read <= source.seek(0, 2) else 0
            source.seek(self._read)
            while chunk := source.read(1 << 16):
                sink.write(chunk)
                copied += len(chunk)
        sink.flush()
        self._read += copied
        return copied

    def copy_until(self, end: float, sink: IO[bytes]) -> None:
        """Copy what is new again and again until `end` (monotonic)."""
        while time.monotonic() < end:
            self.copy(sink)
            time.sleep(_LOOK_SECONDS)

    def drain(self, sink: IO[bytes]) -> None:
        """Copy what is left, until nothing new has come for a while."""
        while self.copy(sink):
            time.sleep(_LATE_SECONDS)
