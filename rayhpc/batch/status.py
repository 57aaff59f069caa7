"""The states of allocations: one question to each scheduler, and none for what has ended already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rayhpc.batch import allocations
from rayhpc.batch.allocations import Allocation
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.records.runs import Run
from rayhpc.schedulers import SYSTEMS, commands
from rayhpc.schedulers.arrays import combined
from rayhpc.schedulers.facts import JobState, State, short, task_of

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
        return worded(self.state)


def worded(state: JobState) -> str:
    """A job's state, or a task's, as it is told."""
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
    allocation = allocations.remembered(allocation, state.tasks) if state.tasks else allocation
    if not state.ended:
        return Seen(allocation, state)
    if state.exit_code == ExitCode.REQUEUE and (alive := allocations.next_life(allocation)) is not None:
        return Seen(alive, JobState(State.PENDING, GOES_ON, why=f"the next attempt of job {allocation.job_id}"))
    return Seen(allocations.ended(allocation, state), state)


def _completed(allocation: Allocation, state: JobState) -> JobState:
    """The state with what our own records know, where the scheduler has forgotten the job, its code or its tasks."""
    if state.tasks or allocation.tasks:
        return _completed_array(allocation, state, allocations.runs(allocation))
    if state.exit_code is not None or (state.state is not State.ENDED and state.word):
        return state
    runs = allocations.runs(allocation)
    if any(task_of(run.batch_job_id) for run in runs):
        return _completed_array(allocation, state, runs)
    own = [run for run in runs if short(run.batch_job_id) == short(allocation.job_id)]
    return _of_run(own[-1], state.word) if own and own[-1].code is not None else state


def _completed_array(allocation: Allocation, state: JobState, runs: Sequence[Run]) -> JobState:
    """The state of an array. What the scheduler says now counts most, then what it has said, then what runs say."""
    ran = {task_of(run.batch_job_id): _of_run(run, "") for run in runs if run.code is not None}
    told = {task: known for task, known in state.tasks if not known.ended or known.exit_code is not None}
    tasks = {**dict(state.tasks), **ran, **dict(allocation.tasks), **told}
    lost = not state.tasks and not state.word
    return combined(tasks, None if lost else replace(state, tasks=()))


def _of_run(run: Run, word: str) -> JobState:
    return JobState(State.FAILED if run.code else State.COMPLETED, word, run.code, run.cause)


def pauses() -> Iterator[float]:
    """Seconds between one question to the scheduler and the next: they grow, so that a long wait costs it little."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
