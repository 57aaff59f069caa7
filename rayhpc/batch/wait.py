"""Wait for the end of jobs, and end with their code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rayhpc.allocations import Allocation
from rayhpc.batch import status
from rayhpc.errors import RayhpcError, configuration
from rayhpc.schedulers.facts import JobState

# A job that was just submitted may not be in the list yet, and one that has just ended not in the archive.
_ASKED_FOR_A_LOST_JOB = 3
# A controller that is restarted is away for minutes.
_PATIENCE_SECONDS = 900.0


def wait(wanted: Sequence[Allocation], tell: Callable[[str], None]) -> int:
    """The first exit code other than 0 among the jobs' once all have ended.

    Raises RayhpcError for a job whose code nobody knows, and when the scheduler has not answered for 15 minutes.
    """
    pending = list(wanted)
    codes: dict[str, int] = {}
    lost: dict[str, int] = {}
    answered = time.monotonic()
    for pause in status.pauses():
        states, faults = status.current(pending)
        if not faults:
            answered = time.monotonic()
        elif time.monotonic() - answered > _PATIENCE_SECONDS:
            raise RayhpcError(faults[0])
        for allocation in [] if faults else list(pending):
            state = states[allocation.name]
            lost[allocation.name] = 0 if known(state) else lost.get(allocation.name, 0) + 1
            if state.ended or lost[allocation.name] >= _ASKED_FOR_A_LOST_JOB:
                codes[allocation.name] = _code(allocation, state)
                tell(f"job {allocation.job_id} {words(state)}")
                pending.remove(allocation)
        if not pending:
            break
        time.sleep(pause)
    return next((code for allocation in wanted if (code := codes[allocation.name])), 0)


def known(state: JobState) -> bool:
    """True if the scheduler still knows the job, or how it ended."""
    return state.ended or bool(state.word)


def words(state: JobState) -> str:
    """'FAILED, exit code 7 (NonZeroExitCode)'."""
    word = state.state.name + (f" ({state.word})" if state.word not in ("", state.state.name) else "")
    code = f", exit code {state.exit_code}" if state.exit_code is not None else ""
    return word + code + (f": {state.why}" if state.why else "")


def _code(allocation: Allocation, state: JobState) -> int:
    if state.exit_code is not None:
        return state.exit_code
    what = "has ended" if state.ended else f"is not known to {allocation.scheduler} any more"
    raise configuration(
        f"job {allocation.job_id} {what}, and nobody knows its exit code",
        f"the last state: {words(state)}",
        next_step=f"rayhpc alloc logs {allocation.job_id}",
    )
