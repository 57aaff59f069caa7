"""evaluation.csv: the mean return of each evaluation and how sure it is, where the configuration asks for any."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rayhpc.rllib.metrics import Row, csv_cell

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, after an iteration: the policy without exploration, on environments of its own.

    The mean return is within return_margin of what was found, with a confidence of 95 %; NaN for a single episode.
    """

    iteration: int
    timesteps: int
    episodes: int
    return_mean: float
    return_margin: float


HEADER = ",".join(column.name for column in fields(Evaluation)) + "\n"


def margin(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean, by Student's t; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def evaluation_in(result: Mapping[str, Any], row: Row) -> Evaluation | None:
    """The evaluation that a result of Algorithm.train() holds, if any episode of it has ended."""
    found = result.get("evaluation", {}).get("env_runners", {}).get("episode_returns", [])
    # A single NaN stands for an evaluation in which no episode has ended.
    returns = [float(each) for each in found] if isinstance(found, list) else []
    if not returns:
        return None
    return Evaluation(row.iteration, row.timesteps, len(returns), fmean(returns), margin(returns))


def text_of(evaluations: Sequence[Evaluation]) -> bytes:
    """The whole file."""
    lines = (",".join(map(csv_cell, astuple(each))) + "\n" for each in evaluations)
    return (HEADER + "".join(lines)).encode()


def read_evaluations(path: Path, until: int) -> list[Evaluation]:
    """Those up to an iteration; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        found = [_read(one) for one in csv.DictReader(lines)]
    return [one for one in found if one.iteration <= until]


def _read(one: Mapping[str, str]) -> Evaluation:
    mean, width = (float(one[name] or math.nan) for name in ("return_mean", "return_margin"))
    return Evaluation(int(one["iteration"]), int(one["timesteps"]), int(one["episodes"]), mean, width)
