"""The states of allocations: one question to each scheduler, and none for what has ended already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayhpc import allocations, commands
from rayhpc.allocations import Allocation
from rayhpc.errors import Fault, RayhpcError
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import JobState, State

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
_GROWTH = 1.5


def current(wanted: Sequence[Allocation]) -> tuple[dict[str, JobState], list[Fault]]:
    """{name: state} of the allocations, UNKNOWN where a scheduler does not answer; and why it does not.

    An end that is seen for the first time is written into the allocation's record.
    """
    states = {allocation.name: allocation.ended for allocation in wanted if allocation.ended is not None}
    faults = []
    for scheduler in dict.fromkeys(allocation.scheduler for allocation in wanted):
        asked = [entry for entry in wanted if entry.scheduler == scheduler and entry.name not in states]
        try:
            states.update(_asked(scheduler, asked) if asked else {})
        except RayhpcError as error:
            faults.append(error.fault)
            states.update({allocation.name: JobState(State.UNKNOWN) for allocation in asked})
    return states, faults


def _asked(scheduler: str, wanted: Sequence[Allocation]) -> dict[str, JobState]:
    told = commands.states(SYSTEMS[scheduler], [allocation.job_id for allocation in wanted])
    states = {}
    for allocation in wanted:
        state = _completed(allocation, told[allocation.job_id])
        states[allocation.name] = state
        if state.ended:
            allocations.ended(allocation, state)
    return states


def _completed(allocation: Allocation, state: JobState) -> JobState:
    """The state with what our own record of the run knows, where the scheduler has forgotten the job or its code."""
    if state.exit_code is not None or (state.state is not State.ENDED and state.word):
        return state
    runs = allocations.runs(allocation)
    if not runs or runs[-1].code is None:
        return state
    code = runs[-1].code
    return JobState(State.FAILED if code else State.COMPLETED, state.word, code, runs[-1].cause)


def pauses() -> Iterator[float]:
    """Seconds between one question to the scheduler and the next: they grow, so that a long wait costs it little."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
