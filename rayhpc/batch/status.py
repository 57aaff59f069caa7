"""The states of allocations: one question to each scheduler, and none for what has ended already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayhpc.batch import allocations
from rayhpc.batch.allocations import Allocation
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.schedulers import SYSTEMS, commands
from rayhpc.schedulers.facts import JobState, State, short

# Our word for a job that ended to be run again under another id.
GOES_ON = "submitted again"
# A job that was just submitted may not be in the list yet, and one that has just ended not in the archive.
ASKED_FOR_A_LOST_JOB = 3

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
_GROWTH = 1.5


@dataclass(frozen=True)
class Seen:
    """An allocation and its state; its id is another one where the job has begun its next attempt."""

    allocation: Allocation
    state: JobState

    @property
    def lost(self) -> bool:
        """True if the scheduler says nothing of the job, not even that it has ended."""
        return not self.state.ended and not self.state.word

    @property
    def words(self) -> str:
        """'FAILED (F), exit code 7: NonZeroExitCode'."""
        state = self.state
        word = state.state.name + (f" ({state.word})" if state.word not in ("", state.state.name) else "")
        code = f", exit code {state.exit_code}" if state.exit_code is not None else ""
        return word + code + (f": {state.why}" if state.why else "")


def current(wanted: Sequence[Allocation]) -> tuple[list[Seen], list[Fault]]:
    """The allocations with their states, UNKNOWN where a scheduler does not answer; and why it does not.

    An end that is seen for the first time is written into the allocation's record, and so is a next attempt.
    """
    seen = {entry.name: Seen(entry, entry.ended) for entry in wanted if entry.ended is not None}
    faults = []
    for scheduler in dict.fromkeys(entry.scheduler for entry in wanted):
        asked = [entry for entry in wanted if entry.scheduler == scheduler and entry.ended is None]
        try:
            seen.update(_asked(scheduler, asked) if asked else {})
        except RayhpcError as error:
            faults.append(error.fault)
            seen.update({entry.name: Seen(entry, JobState(State.UNKNOWN)) for entry in asked})
    return [seen[entry.name] for entry in wanted], faults


def _asked(scheduler: str, wanted: Sequence[Allocation]) -> dict[str, Seen]:
    told = commands.states(SYSTEMS[scheduler], [entry.job_id for entry in wanted])
    return {entry.name: _noted(entry, _completed(entry, told[entry.job_id])) for entry in wanted}


def _noted(allocation: Allocation, state: JobState) -> Seen:
    """What was seen, with what follows from it written down."""
    if not state.ended:
        return Seen(allocation, state)
    if state.exit_code == ExitCode.REQUEUE and (alive := allocations.next_life(allocation)) is not None:
        return Seen(alive, JobState(State.PENDING, GOES_ON, why=f"the next attempt of job {allocation.job_id}"))
    return Seen(allocations.ended(allocation, state), state)


def _completed(allocation: Allocation, state: JobState) -> JobState:
    """The state with what our own record of the run knows, where the scheduler has forgotten the job or its code."""
    if state.exit_code is not None or (state.state is not State.ENDED and state.word):
        return state
    runs = [run for run in allocations.runs(allocation) if short(run.batch_job_id) == short(allocation.job_id)]
    code = runs[-1].code if runs else None
    if code is None:
        return state
    return JobState(State.FAILED if code else State.COMPLETED, state.word, code, runs[-1].cause)


def pauses() -> Iterator[float]:
    """Seconds between one question to the scheduler and the next: they grow, so that a long wait costs it little."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
