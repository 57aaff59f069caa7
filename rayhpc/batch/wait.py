"""Wait for the end of jobs, and end with their code."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence

from rayhpc.batch import status
from rayhpc.batch.allocations import Allocation
from rayhpc.batch.status import Seen
from rayhpc.errors import Fault, RayhpcError, configuration

# A controller that is restarted is away for minutes.
_PATIENCE_SECONDS = 900.0


def wait_for_allocations(wanted: Sequence[Allocation], tell: Callable[[str], None]) -> int:
    """The first exit code other than 0 among the jobs' once all have ended, in their last attempt.

    Raises RayhpcError for a job whose code nobody knows, and when a scheduler has not answered for 15 minutes.
    """
    pending = list(wanted)
    codes: dict[str, int] = {}
    lost: dict[str, int] = {}
    answered = time.monotonic()
    for pause in status.pauses():
        seen, faults = status.current(pending)
        answered = _heard(faults, answered)
        for entry in seen:
            name = entry.allocation.name
            lost[name] = lost.get(name, 0) + 1 if entry.lost and not faults else 0
            if entry.state.ended or lost[name] >= status.ASKED_FOR_A_LOST_JOB:
                codes[name] = _code(entry)
            if name in codes or entry.state.word == status.GOES_ON:
                tell(f"job {entry.allocation.job_id} {entry.words}")
        pending = [entry.allocation for entry in seen if entry.allocation.name not in codes]
        if not pending:
            break
        time.sleep(pause)
    return next((code for allocation in wanted if (code := codes[allocation.name])), 0)


def _heard(faults: Sequence[Fault], answered: float) -> float:
    """When all schedulers last answered (monotonic); raises RayhpcError when that is too long ago."""
    now = time.monotonic()
    if faults and now - answered > _PATIENCE_SECONDS:
        raise RayhpcError(faults[0])
    return answered if faults else now


def _code(entry: Seen) -> int:
    if entry.state.exit_code is not None:
        return entry.state.exit_code
    job_id, scheduler = entry.allocation.job_id, entry.allocation.scheduler
    what = "has ended" if entry.state.ended else f"is not known to {scheduler} any more"
    raise configuration(
        f"job {job_id} {what}, and nobody knows its exit code",
        f"the last state: {entry.words}",
        next_step=f"rayhpc alloc logs {shlex.quote(job_id)}",
    )
