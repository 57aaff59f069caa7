"""metrics.csv: one line per iteration, as it ends."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

WINDOW = 100


@dataclass(frozen=True)
class Row:
    """One iteration, one line of metrics.csv; totals include resumed runs, times are in seconds of training.

    The returns are those of the last 100 episodes (fewer at first) and NaN before the first one has ended.
    """

    iteration: int
    timesteps: int
    episodes: int
    seconds: float
    return_mean: float
    return_min: float
    return_max: float
    steps_per_second: float


BEFORE_TRAINING = Row(0, 0, 0, 0.0, math.nan, math.nan, math.nan, math.nan)
CSV_HEADER = ",".join(column.name for column in fields(Row)) + "\n"


def latest(rows: Sequence[Row]) -> Row:
    """The last row; zeros before the first iteration."""
    return rows[-1] if rows else BEFORE_TRAINING


def best_return(rows: Sequence[Row]) -> float:
    """The highest mean return over a full window of episodes; NaN before there was one."""
    return max((row.return_mean for row in rows if row.episodes >= WINDOW), default=math.nan)


def csv_lines(rows: Sequence[Row]) -> str:
    """Rows as lines of metrics.csv; what is not known is an empty cell."""
    return "".join(",".join(map(csv_cell, astuple(row))) + "\n" for row in rows)


def csv_cell(value: float) -> str:
    """Six digits after the point are enough for readers."""
    return "" if math.isnan(value) else str(round(value, 6))


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.csv; raises KeyError or ValueError if it is not one of these."""
    with path.open(newline="") as lines:
        return [
            Row(
                iteration=int(record["iteration"]),
                timesteps=int(record["timesteps"]),
                episodes=int(record["episodes"]),
                seconds=float(record["seconds"]),
                return_mean=float(record["return_mean"] or math.nan),
                return_min=float(record["return_min"] or math.nan),
                return_max=float(record["return_max"] or math.nan),
                steps_per_second=float(record["steps_per_second"]),
            )
            for record in csv.DictReader(lines)
        ]
