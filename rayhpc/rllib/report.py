"""How a training ended: result.json, the learning curve, and two lines for the user."""

from __future__ import annotations

import importlib.util
import math
import platform
from importlib.metadata import version

from rayhpc.rllib.files import json_text, write_whole
from rayhpc.rllib.learning_curve import learning_curve
from rayhpc.rllib.metrics import best_return, latest
from rayhpc.rllib.progress import clock, number, say, spaced
from rayhpc.rllib.training import Training


def report(training: Training, reason: str) -> None:
    """Write result.json and the learning curve, and say how it ended and what there is."""
    last, best = latest(training.rows), best_return(training.rows)
    newest = training.checkpoint.path if training.checkpoint else "none"
    write_whole(training.output / "result.json", json_text(result(training, reason)).encode())
    say(
        f"ended ({reason}) after {last.iteration} iterations, {spaced(last.timesteps)} steps,"
        f" {clock(last.seconds)}: mean return {number(last.return_mean)}, best {number(best)}"
    )
    if not importlib.util.find_spec("matplotlib"):
        say("no learning-curve.png: matplotlib is not installed")
    elif training.rows:
        write_whole(training.output / "learning-curve.png", learning_curve(training))
    say(f"result.json and more in {training.output}, newest checkpoint: {newest}")


def result(training: Training, reason: str) -> dict[str, object]:
    """The content of result.json; null for what is not known."""
    last, best = latest(training.rows), best_return(training.rows)
    packages = ("ray", "torch", "gymnasium", "numpy")
    return {
        "env": training.plan.env,
        "seed": training.plan.seed,
        "stop_reason": reason,
        "signal": training.signals.first.name if training.signals.first else None,
        "iterations": last.iteration,
        "timesteps": last.timesteps,
        "episodes": last.episodes,
        "seconds": round(last.seconds, 3),
        "last_return": None if math.isnan(last.return_mean) else last.return_mean,
        "best_return": None if math.isnan(best) else best,
        "checkpoint": str(training.checkpoint.path.resolve()) if training.checkpoint else None,
        "nodes": training.nodes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
