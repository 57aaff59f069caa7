"""When a training ends by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rayhpc.rllib.metrics import WINDOW, Row, latest


@dataclass(frozen=True)
class StopConditions:
    """The first one that is met ends the training, resumed runs included; None: never."""

    mean_return: float | None = None
    iterations: int | None = None
    timesteps: int | None = None
    minutes: float | None = None


def reached(stop: StopConditions, rows: Sequence[Row]) -> str | None:
    """The name of the stop condition that the last row meets; None to go on."""
    last = latest(rows)
    returned = last.return_mean if last.episodes >= WINDOW else math.nan
    met = {
        "return": stop.mean_return is not None and returned >= stop.mean_return,
        "iterations": stop.iterations is not None and last.iteration >= stop.iterations,
        "timesteps": stop.timesteps is not None and last.timesteps >= stop.timesteps,
        "minutes": stop.minutes is not None and last.seconds >= 60 * stop.minutes,
    }
    return next((name for name, is_met in met.items() if is_met), None)
