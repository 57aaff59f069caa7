"""A training that is a trial of a sweep: where it writes, and what it reports to the sweep."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayhpc.rllib.metrics import Row, best_return
from rayhpc.rllib.training import Training, Watcher
from rayhpc.sweep import report

# What a sweep can judge a training by.
METRICS = ("mean_return", "best_return", "evaluation_return")


def directory() -> Path | None:
    """The results of this trial, the same place in all its attempts: each goes on where the last has ended."""
    found = os.environ.get("RAYHPC_TRIAL_DIR")
    return Path(found) / "training" if found else None


def reporter() -> Watcher:
    """Report each iteration; nothing happens where no sweep listens."""
    return Watcher(_tell, lambda: None)


def _tell(training: Training, row: Row, _: Mapping[str, Any]) -> None:
    evaluated = training.evaluations[-1].return_mean if training.evaluations else math.nan
    judged = zip(METRICS, (row.return_mean, best_return(training.rows), evaluated), strict=True)
    known = {name: value for name, value in judged if not math.isnan(value)}
    report(step=row.iteration, timesteps=row.timesteps, seconds=round(row.seconds, 3), **known)
