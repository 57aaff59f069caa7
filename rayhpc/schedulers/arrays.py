"""Job arrays: one submission, many tasks. What the tasks' states make together, on every scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from rayhpc.schedulers.facts import JobState, State, number

# The job's number, its task's, empty for the job itself, and the state.
Row = tuple[str, str, JobState]


def gathered(rows: Iterable[Row]) -> dict[str, JobState]:
    """{number: state} of the jobs, of an array that of all its tasks; {number_task: state} of each task, too."""
    jobs: dict[str, JobState] = {}
    tasks: dict[str, dict[str, JobState]] = {}
    for job, task, state in rows:
        if task:
            tasks.setdefault(job, {})[task] = state
        else:
            jobs[job] = state
    each = {f"{job}_{task}": state for job, found in tasks.items() for task, state in found.items()}
    return {**jobs, **each, **{job: combined(found, jobs.get(job)) for job, found in tasks.items()}}


def combined(tasks: Mapping[str, JobState], whole: JobState | None = None) -> JobState:
    """The state of an array: it has ended when all tasks have, with the first code that is not 0.

    whole: what the scheduler says of the array itself, which may have tasks that it does not name.
    """
    ordered = tuple(sorted(tasks.items(), key=_place))
    states = [state for _, state in ordered]
    word = ", ".join(f"{count} {name}" for name, count in Counter(state.state.name for state in states).items())
    if not all(state.ended for state in states):
        return JobState(_alive(states), word, tasks=ordered)
    if whole is not None and not whole.ended and whole.word:
        return JobState(whole.state, word, tasks=ordered)
    for task, state in ordered:
        if state.exit_code:
            return JobState(state.state, word, state.exit_code, f"task {task} {state.why}".rstrip(), ordered)
    if any(state.exit_code is None for state in states):
        last = whole or JobState(State.ENDED)
        return JobState(last.state, word, last.exit_code, last.why, ordered)
    return JobState(State.COMPLETED, word, 0, tasks=ordered)


def merged(first: JobState | None, second: JobState) -> JobState:
    """What two answers say of one job; of a task, and of a job without tasks, the first one counts."""
    if first is None or not (first.tasks and second.tasks):
        return first or second
    return combined({**dict(second.tasks), **dict(first.tasks)})


def complete(state: JobState | None) -> bool:
    """Whether nobody else need be asked; of an array, schedulers forget the tasks that ended first."""
    return state is not None and not (state.tasks and state.ended)


def _alive(states: Iterable[JobState]) -> State:
    found = {State.RUNNING if state.ended else state.state for state in states}
    return next((state for state in (State.RUNNING, State.PENDING) if state in found), State.UNKNOWN)


def _place(entry: tuple[str, JobState]) -> tuple[int, str]:
    first = entry[0].partition("-")[0]
    value = number(first)
    return (10**18 if value is None else value, entry[0])
