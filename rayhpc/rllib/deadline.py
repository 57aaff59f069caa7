"""The end of the job, and whether one more iteration fits before it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rayhpc import driver_api
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.metrics import Row

DEADLINE_MARGIN_S = 15.0
RECENT_ITERATIONS = 10


def end_of_job() -> float:
    """The end of the job in Unix seconds as it is now, infinite where none is known; UsageError if it is no number."""
    try:
        return driver_api.deadline()
    except ValueError as problem:
        raise UsageError(str(problem)) from None


def patience_in(environment: Mapping[str, str]) -> float | None:
    """Seconds from SIGTERM or SIGINT to SIGKILL, if RAYHPC_STOP_TIMEOUT tells them; UsageError if it is no number."""
    return number_in(environment, "RAYHPC_STOP_TIMEOUT", "a number of seconds")


def number_in(environment: Mapping[str, str], name: str, what: str) -> float | None:
    """The number in a variable, None where it is not set; UsageError if it is no number."""
    text = environment.get(name, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise UsageError(f"{name}={text!r} is not {what}") from None


def next_iteration_fits(rows: Sequence[Row], deadline: float, now: float, checkpoint_s: float) -> bool:
    """Whether one more iteration and its checkpoint will end well before the deadline (Unix seconds)."""
    ends = [0.0, *(row.seconds for row in rows)][-RECENT_ITERATIONS - 1 :]
    longest = max((after - before for before, after in itertools.pairwise(ends)), default=0.0)
    return now + 1.5 * longest + 2 * checkpoint_s + DEADLINE_MARGIN_S < deadline
