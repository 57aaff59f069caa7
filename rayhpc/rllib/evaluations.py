"""evaluation.csv: the mean return of each evaluation, where the configuration asks for any."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from rayhpc.rllib.metrics import Row, csv_cell


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, after an iteration: the policy without exploration, on environments of its own."""

    iteration: int
    timesteps: int
    return_mean: float


HEADER = ",".join(column.name for column in fields(Evaluation)) + "\n"


def evaluation_in(result: Mapping[str, Any], row: Row) -> Evaluation | None:
    """The evaluation that a result of Algorithm.train() holds, if any episode of it has ended."""
    value = result.get("evaluation", {}).get("env_runners", {}).get("episode_return_mean", math.nan)
    return None if math.isnan(value) else Evaluation(row.iteration, row.timesteps, float(value))


def text_of(evaluations: Sequence[Evaluation]) -> bytes:
    """The whole file."""
    lines = (",".join(map(csv_cell, astuple(each))) + "\n" for each in evaluations)
    return (HEADER + "".join(lines)).encode()


def read_evaluations(path: Path, until: int) -> list[Evaluation]:
    """Those up to an iteration; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        found = [
            Evaluation(int(one["iteration"]), int(one["timesteps"]), float(one["return_mean"]))
            for one in csv.DictReader(lines)
        ]
    return [one for one in found if one.iteration <= until]
