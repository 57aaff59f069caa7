"""What a job writes, as it comes, until the job has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from rayhpc.jobs import ray_api
from rayhpc.jobs.find import Found
from rayhpc.jobs.ray_api import Job
from rayhpc.jobs.ray_client import Tail
from rayhpc.jobs.wait import current_state

_LOOK_SECONDS = 0.5
_ASK_SECONDS = 3.0
# The last lines come after the end is known.
_LATE_SECONDS = 15.0


def follow_job(entry: Found, write: Callable[[str], None]) -> Job:
    """Write what the job writes, from its beginning, until it has ended: its last state. Raises RayhpcError."""
    heading = _Heading(entry.job, write)
    tail, skip = Tail(entry.server, entry.job.id), _Skip(heading.write)
    asked = time.monotonic()
    while True:
        skip.write(tail.read(_LOOK_SECONDS))
        if not tail.over and time.monotonic() - asked < _ASK_SECONDS:
            continue
        job, asked = current_state(entry), time.monotonic()
        if job.ended:
            _finish(entry, tail, skip)
            heading.close()
            return job
        if tail.over:  # the connection was lost, the job was not
            time.sleep(_LOOK_SECONDS)
            tail = Tail(entry.server, entry.job.id)
            skip.again()


def _finish(entry: Found, tail: Tail, skip: _Skip) -> None:
    """Write the last lines as they come, and what has not come from the whole log.

    Ray's live log ends when the job's state does, which may be before its last lines (2.60).
    """
    end = time.monotonic() + _LATE_SECONDS
    while not tail.over and time.monotonic() < end:
        skip.write(tail.read(_LOOK_SECONDS))
    skip.again()
    skip.write(ray_api.logs(entry.server, entry.job.id))


class _Skip:
    """Writes what was not written before, when the log is read from its beginning again."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written = self._seen = 0

    def again(self) -> None:
        """The log begins anew."""
        self._seen = 0

    def write(self, piece: str) -> None:
        """Write the part of a piece that is new."""
        fresh = piece[max(0, self._written - self._seen) :]
        self._seen += len(piece)
        self._written = max(self._written, self._seen)
        if fresh:
            self._write(fresh)


def shown_log(job: Job, log: str) -> str:
    """A whole log, which Ray begins with the job's script: with what the user typed in its place."""
    return log.replace(*_headings(job), 1)


def _headings(job: Job) -> tuple[str, str]:
    """Ray's first line, as it is and as it is shown."""
    begin = f"Running entrypoint for job {job.id}: "
    return f"{begin}{job.script}\n", f"{begin}{job.entrypoint}\n"


class _Heading:
    """Writes a log as shown_log() has it, piece by piece."""

    def __init__(self, job: Job, write: Callable[[str], None]) -> None:
        self._write = write
        self._raw, self._shown = _headings(job)
        self._kept = ""
        self._done = False

    def write(self, piece: str) -> None:
        """Write what cannot be the beginning of Ray's line; that is kept until it is whole."""
        if self._done:
            self._write(piece)
            return
        text = self._kept + piece
        if self._raw in text:
            self._done = True
            self._write(text.replace(self._raw, self._shown, 1))
            return
        kept = next(size for size in range(min(len(text), len(self._raw)), -1, -1) if text.endswith(self._raw[:size]))
        self._kept = text[len(text) - kept :]
        if kept < len(text):
            self._write(text[: len(text) - kept])

    def close(self) -> None:
        """Write what is left."""
        if self._kept and not self._done:
            self._write(self._kept)
