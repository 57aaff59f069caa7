"""learning-curve.png: the mean return over the environment steps."""

from __future__ import annotations

import io

from rayhpc.rllib.metrics import WINDOW
from rayhpc.rllib.training import Training


def learning_curve(training: Training) -> bytes:
    """A PNG of the mean return over the environment steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    plan, rows = training.plan, training.rows
    steps = [row.timesteps for row in rows]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot(
        title=f"{plan.algorithm} on {plan.env}", xlabel="environment steps", ylabel="return of an episode"
    )
    low, high = [row.return_min for row in rows], [row.return_max for row in rows]
    axes.plot(steps, [row.return_mean for row in rows], label=f"mean of the last {WINDOW} episodes")
    axes.fill_between(steps, low, high, alpha=0.15, linewidth=0, label="lowest to highest of these episodes")
    if training.evaluations:
        at = [each.timesteps for each in training.evaluations]
        means = [each.return_mean for each in training.evaluations]
        margins = [each.return_margin for each in training.evaluations]
        axes.errorbar(at, means, margins, marker=".", capsize=2, label="evaluation, with 95 % interval")
    if plan.stop.mean_return is not None:
        axes.axhline(plan.stop.mean_return, color="gray", linestyle="--", label="return to stop at")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
