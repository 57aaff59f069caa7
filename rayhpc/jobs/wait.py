"""Wait for the end of jobs, and end with their code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rayhpc.jobs import ray_api
from rayhpc.jobs.find import Found
from rayhpc.jobs.ray_api import Job

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
_GROWTH = 1.3
# A head whose CPUs are all at work may be late with an answer.
_PATIENCE_SECONDS = 30.0


def wait_for_jobs(wanted: Sequence[Found], tell: Callable[[str], None]) -> int:
    """The first exit code other than 0 among the jobs', once all have ended; raises RayhpcError for a cluster lost."""
    codes: dict[str, int] = {}
    pause = _FIRST_PAUSE
    while True:
        for entry in wanted:
            if entry.job.id not in codes and (job := current_state(entry)).ended:
                codes[entry.job.id] = job.exit_code
                tell(f"job {job.id} {job.words}")
        if len(codes) == len({entry.job.id for entry in wanted}):
            return next((code for entry in wanted if (code := codes[entry.job.id])), 0)
        time.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def current_state(entry: Found) -> Job:
    """The job as it is now; raises RayhpcError after 30 s without an answer."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return ray_api.one(entry.server, entry.job.id)
        except ray_api.Late:
            if time.monotonic() > end:
                raise
        time.sleep(_FIRST_PAUSE)
