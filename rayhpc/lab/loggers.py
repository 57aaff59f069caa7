"""Who is told of each iteration: TensorBoard, Weights & Biases, MLflow, Aim."""

from __future__ import annotations

import importlib
import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from numbers import Real
from typing import Any

from rayhpc.lab.own_groups import Logger
from rayhpc.lab.settings import Settings
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.metrics import Row
from rayhpc.rllib.progress import say
from rayhpc.rllib.training import Training, Watcher

INTERNET = ("api.wandb.ai", 443)
CONNECT_TIMEOUT_S = 3.0


def loggers_of(settings: Settings, training: Training) -> list[Watcher]:
    """The loggers that were asked for, begun; UsageError where one is not installed."""
    begun = []
    for name in (each.name for each in fields(Logger)):
        if wanted := getattr(settings.logger, name):
            begun.append(LOGGERS[name](wanted if isinstance(wanted, dict) else {}, settings, training))
    return begun


def numbers(row: Row, result: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of a result by its path, and the row of metrics.csv."""
    from ray.tune.utils import flatten_dict

    found = flatten_dict({**{name: part for name, part in result.items() if name != "config"}, "row": asdict(row)})
    real = {name: value for name, value in found.items() if isinstance(value, Real) and not isinstance(value, bool)}
    return {name: float(value) for name, value in real.items() if math.isfinite(value)}


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise UsageError(f"logger.{name.partition('.')[0]}: {problem}: pip install {package}") from problem


def _tensorboard(given: dict[str, Any], _settings: Settings, training: Training) -> Watcher:
    summary = _module("tensorboardX.proto.summary_pb2", "tensorboardX").Summary
    writer = _module("tensorboardX", "tensorboardX").SummaryWriter(str(training.output / "tensorboard"), **given)

    def tell(_training: Training, row: Row, result: Mapping[str, Any]) -> None:
        values = [summary.Value(tag=name, simple_value=value) for name, value in numbers(row, result).items()]
        writer.file_writer.add_summary(summary(value=values), row.timesteps)  # one by one takes 50 times as long
        writer.flush()

    return Watcher(tell, writer.close)


def _wandb(given: dict[str, Any], settings: Settings, training: Training) -> Watcher:
    wandb = _module("wandb", "wandb")
    offline = {} if "WANDB_MODE" in os.environ or has_internet() else {"mode": "offline"}
    own = {"project": "rayhpc-lab", "dir": training.output, "config": settings.plain}
    started = wandb.init(**{**own, **offline, **given})

    def finish() -> None:
        started.finish()
        # W&B's own process may still be writing the file.
        wandb.teardown()
        if started.settings.mode == "offline" or os.environ.get("WANDB_MODE") == "offline":
            say(f"wandb sync {started.settings.sync_dir}")

    return Watcher(lambda _, row, result: started.log(numbers(row, result), step=row.iteration), finish)


def _mlflow(given: dict[str, Any], settings: Settings, training: Training) -> Watcher:
    mlflow = _module("mlflow", "mlflow-skinny")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        # MLflow 3.7 wants a database, which its light package does not have, unless it is told.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri((training.output / "mlruns").resolve().as_uri())
    mlflow.set_experiment(given.pop("experiment_name", "rayhpc-lab"))
    mlflow.start_run(**{"run_name": training.output.name, **given})
    mlflow.log_params({"algo": settings.algorithm, "env": settings.environment.name})
    return Watcher(lambda _, row, result: mlflow.log_metrics(numbers(row, result), step=row.iteration), mlflow.end_run)


def _aim(given: dict[str, Any], settings: Settings, training: Training) -> Watcher:
    run = _module("aim", "aim").Run(**{"repo": str(training.output), **given})
    run["settings"] = settings.plain

    def tell(_training: Training, row: Row, result: Mapping[str, Any]) -> None:
        for name, value in numbers(row, result).items():
            run.track(value, name=name, step=row.iteration)

    return Watcher(tell, run.close)


def has_internet() -> bool:
    """Whether W&B's server can be reached."""
    try:
        socket.create_connection(INTERNET, CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


LOGGERS: dict[str, Callable[[dict[str, Any], Settings, Training], Watcher]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "aim": _aim,
}
