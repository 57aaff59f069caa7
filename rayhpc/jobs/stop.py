"""End jobs before their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rayhpc import rayjobs
from rayhpc.errors import configuration
from rayhpc.jobs.find import Found
from rayhpc.jobs.wait import now

_LOOK_SECONDS = 0.3
# Ray kills a job that ignores SIGTERM after 3 s; one that waits for resources is noticed later.
_PATIENCE_SECONDS = 60.0


def stop(wanted: Sequence[Found], user: str, force: bool, tell: Callable[[str], None]) -> None:
    """Stop jobs and wait until they have; raises RayhpcError, before any is stopped, if one is somebody else's."""
    for entry in wanted:
        if entry.job.user != user and not force:
            raise configuration(
                f"job {entry.job.id} is not yours: nothing was stopped",
                f"submitted by {entry.job.user or 'somebody without rayhpc'}: {entry.job.entrypoint[:80]}",
                next_step=f"ask them, or: rayhpc job stop --force {entry.job.id}",
            )
    for entry in wanted:
        if not entry.job.ended:
            rayjobs.stop(entry.server, entry.job.id)
    end = time.monotonic() + _PATIENCE_SECONDS
    for entry in wanted:
        tell(f"job {entry.job.id} {_stopped(entry, end)}")


def _stopped(entry: Found, end: float) -> str:
    """In words how it ended; raises RayhpcError if it has not at the end (monotonic)."""
    while True:
        job = now(entry)
        if job.ended:
            return f"had ended already: {job.words}" if entry.job.ended else job.words
        if time.monotonic() > end:
            raise configuration(
                f"job {job.id} was told to stop and is still {job.status}",
                f"cluster: {entry.server.name}",
                next_step=f"try again: rayhpc job stop {job.id}; rayhpc cluster stop ends the cluster with its jobs",
            )
        time.sleep(_LOOK_SECONDS)
