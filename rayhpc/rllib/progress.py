"""What the user sees while it trains."""

from __future__ import annotations

import math

from rayhpc.rllib.metrics import Row
from rayhpc.rllib.training import Training


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def spaced(number: float) -> str:
    """A whole number in groups of three digits: 152 143."""
    return f"{number:,.0f}".replace(",", " ")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:24."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def number(value: float) -> str:
    """A return with one digit, a dash if it is not known yet."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def opening(training: Training) -> str:
    """What is trained where, and the head of the table."""
    plan, start = training.plan, training.checkpoint
    runners = [int(str(node["env_runners"])) for node in training.nodes]
    spread = f"env runners: {sum(runners)} on {sum(map(bool, runners))} of {len(runners)} Ray nodes"
    lines = [
        f"{plan.algorithm} on {plan.env}, seed {plan.seed}: {spread if any(runners) else 'no env runners'}",
        f"results in {training.output}",
        f"{'iteration':>9} {'steps':>12} {'mean return':>12} {'best':>8} {'steps/s':>9} {'time':>9}",
    ]
    resumed = [f"resumed from {start.path}, which has {start.manifest.iteration} iterations"] if start else []
    return "\n".join(lines[:2] + resumed + lines[2:])


def table_line(row: Row, best: float) -> str:
    """One iteration as a line of the table."""
    return (
        f"{row.iteration:>9} {spaced(row.timesteps):>12} {number(row.return_mean):>12} {number(best):>8}"
        f" {spaced(row.steps_per_second):>9} {clock(row.seconds):>9}"
    )
