"""End jobs before their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rayhpc.errors import RayhpcError, configuration
from rayhpc.jobs import ray_api
from rayhpc.jobs.find import Found
from rayhpc.jobs.ray_api import Job
from rayhpc.jobs.wait import current_state

_LOOK_SECONDS = 0.3
# Ray kills a job that ignores SIGTERM after 3 s. One that waits for resources is told, but ends only when it gets them.
_PATIENCE_SECONDS = 60.0
_PENDING_SECONDS = 10.0


def stop_jobs(wanted: Sequence[Found], user: str, force: bool, tell: Callable[[str], None]) -> None:
    """Stop jobs and wait until they have; raises RayhpcError, before any is stopped, if one is somebody else's."""
    for entry in wanted:
        if not entry.job.is_of(user) and not force:
            raise configuration(
                f"job {entry.job.id} is not yours: nothing was stopped",
                f"submitted by {entry.job.user or 'somebody without rayhpc'}: {entry.job.entrypoint[:80]}",
                next_step=f"ask them, or: rayhpc job stop --force {entry.job.id}",
            )
    for entry in wanted:
        if not entry.job.ended:
            ray_api.stop(entry.server, entry.job.id)
    asked = time.monotonic()
    for entry in wanted:
        tell(f"job {entry.job.id} {_stopped(entry, asked)}")


def _stopped(entry: Found, asked: float) -> str:
    """In words how it ended; raises RayhpcError if it has not, too long after it was asked to (monotonic)."""
    while True:
        job = current_state(entry)
        if job.ended:
            return f"had ended already: {job.words}" if entry.job.ended else job.words
        if time.monotonic() - asked > (_PENDING_SECONDS if job.status == "PENDING" else _PATIENCE_SECONDS):
            raise _still_there(entry, job)
        time.sleep(_LOOK_SECONDS)


def _still_there(entry: Found, job: Job) -> RayhpcError:
    pending = job.status == "PENDING"
    return configuration(
        f"job {job.id} was told to stop and is still {job.status}",
        *(["Ray notices that once the job has the resources it waits for"] if pending else []),
        f"cluster: {entry.server.name}",
        next_step=f"rayhpc job wait {job.id}" if pending else f"rayhpc job logs {job.id}; then try again",
    )
