"""Pictures of a sweep, by Optuna's own drawings over matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rayhpc.errors import configuration
from rayhpc.sweep.plan import Parameter, Sweep
from rayhpc.sweep.trials import Trial, means

_LEAST = 2


def draw(sweep: Sweep, found: Sequence[Trial], folder: Path) -> list[Path]:
    """Write the pictures as PNG; their files. Raises RayhpcError without the packages, or with too few trials."""
    values = means(found, sweep.metric, sweep.repeat)
    if len(values) < _LEAST or not sweep.space:
        raise configuration(
            f"{len(values)} finished samples with the metric {sweep.metric or '(none)'} are too few to draw",
            next_step="rayhpc sweep show lists the trials; a picture needs a space, a metric and two samples",
        )
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from optuna.importance import PedAnovaImportanceEvaluator
        from optuna.visualization import matplotlib as drawings
    except ImportError as error:
        raise configuration(
            "pictures need optuna and matplotlib", str(error), next_step="pip install 'rayhpc[sweep]'"
        ) from error
    study = _study(sweep, found, values)
    metric = sweep.metric
    pictures: dict[str, Callable[[], Any]] = {
        "best-so-far.png": lambda: _steps(drawings.plot_optimization_history(study, target_name=metric)),
        "parallel.png": lambda: _readable(drawings.plot_parallel_coordinate(study, target_name=metric)),
    }
    if len(sweep.space) > 1:
        judge = PedAnovaImportanceEvaluator()
        drawn = partial(drawings.plot_param_importances, study, evaluator=judge, target_name=metric)
        pictures["importance.png"] = lambda: _titled(drawn(), "What the metric depends on", x="share of its variation")
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its drawings experimental, since version 2.2
        return [_save(folder / name, picture()) for name, picture in pictures.items()]


def _titled(axes: Any, title: str, **labels: str) -> Any:
    """The picture with words of ours; a parameter by the last part of its name, where they differ there."""
    axes.set_title("", loc="left")  # where Optuna writes some of its own
    axes.set_title(title, pad=14)
    axes.set(xlabel=labels.get("x", ""), ylabel=labels.get("y", ""))
    for axis in (axes.xaxis, axes.yaxis):
        shown = [label.get_text() for label in axis.get_ticklabels()]
        last = [name.rpartition(".")[2] for name in shown]
        if len(set(last)) == len(last) and any(part.isidentifier() for part in last):
            axis.set_ticks(axis.get_ticklocs(), labels=last)
    return axes


def _steps(axes: Any) -> Any:
    """The best does not rise before the sample that raises it."""
    for line in axes.lines:
        line.set_drawstyle("steps-post")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _titled(axes, "Best so far", x="sample", y=axes.get_ylabel())


def _readable(axes: Any) -> Any:
    """Each sample visible, the poor ones too, and no grid across the scales."""
    for scale in axes.figure.axes:
        scale.grid(visible=False)
        for label in scale.get_yticklabels():
            label.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})
    axes.set_facecolor("white")
    axes.collections[0].set_cmap("viridis_r")
    return _titled(axes, "Samples, each a line")


def _save(file: Path, axes: Any) -> Path:
    figure = axes.figure
    figure.set_size_inches(8, 4.5)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    return file


def _study(sweep: Sweep, found: Sequence[Trial], values: dict[int, float]) -> Any:
    """The samples as a study of Optuna's, from the records alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if sweep.mode == "max" else "minimize")
    firsts = {trial.sample: trial for trial in reversed(found)}
    for sample, value in sorted(values.items()):
        params = {parameter.name: firsts[sample].values[parameter.name] for parameter in sweep.space}
        distributions = {parameter.name: _distribution(optuna, parameter) for parameter in sweep.space}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    return study


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    kinds = optuna.distributions
    if parameter.kind in ("choice", "grid"):
        return kinds.CategoricalDistribution(parameter.values)
    low, high = parameter.values
    if parameter.kind == "randint":
        return kinds.IntDistribution(low, high)
    if parameter.kind == "normal":
        spread = 6 * high
        return kinds.FloatDistribution(low - spread, low + spread)
    return kinds.FloatDistribution(low, high, log=parameter.kind == "loguniform")
