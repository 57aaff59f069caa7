"""The groups that are not RLlib's: the run, its checkpoints, when it stops, who is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt


def key(default: Any, text: str) -> Any:
    """A key with its default and its meaning."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Run:
    """Where the results go, and where it runs."""

    output: str | None = key(None, "Directory of the results; null: lab-results/<env>, then <env>-run2 and so on.")
    resume: bool | str = key(False, "True: go on from the newest checkpoint, if there is one; or a path to one.")
    overwrite: bool = key(False, "Delete the results of an earlier run in the output directory.")
    video: str | None = key(None, "'every 10': a GIF of each tenth iteration, recorded in the background.")
    check_kinds: bool = key(True, "False: leave it to RLlib to refuse values of a wrong kind.")


@dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are written, and how many are kept."""

    every: Annotated[int, Ge(1)] = key(10, "Iterations from one checkpoint to the next.")
    keep: Annotated[int, Ge(1)] = key(3, "Newest checkpoints to keep.")


@dataclass(frozen=True)
class Stop:
    """The first of these that is reached ends the training, resumed runs included."""

    mean_return: float | None = key(None, "Mean return of 100 episodes; null: the environment's own threshold.")
    iterations: Annotated[int, Ge(1)] | None = key(200, "Iterations.")
    timesteps: Annotated[int, Ge(1)] | None = key(None, "Environment steps.")
    minutes: Annotated[float, Gt(0)] | None = key(None, "Minutes of training.")
    require_return: float | None = key(None, "The exit code is 1 if the mean return never reached this.")


@dataclass(frozen=True)
class Logger:
    """Who is told of each iteration, beside metrics.csv. A mapping goes to the logger's own init."""

    tensorboard: bool = key(True, "TensorBoard's event files in the output directory.")
    wandb: bool | Mapping[str, Any] = key(False, "Weights & Biases; offline where the node has no internet.")
    mlflow: bool | Mapping[str, Any] = key(False, "MLflow, into files in the output directory unless told otherwise.")
    aim: bool | Mapping[str, Any] = key(False, "Aim, into a repository in the output directory unless told otherwise.")


@dataclass(frozen=True)
class Tune:
    """How `rayhpc lab tune` searches the tunables, and what each of its trials holds; `lab train` ignores it."""

    name: str | None = key(None, "The directory below rayhpc-sweeps/; null: algorithm and environment.")
    samples: Annotated[int, Ge(1)] = key(10, "Points of the space; of a grid: all of them.")
    repeat: Annotated[int, Ge(1)] = key(1, "Trials of each point, with other seeds; the best point has the best mean.")
    search: Literal["random", "grid", "optuna"] | None = key(None, "null: grid if all tunables are grids, else random.")
    scheduler: Literal["none", "asha", "median"] = key("none", "Trainings that fall behind are ended early.")
    metric: Literal["mean_return", "best_return", "evaluation_return"] = key("mean_return", "Of the last iteration.")
    mode: Literal["max", "min"] = key("max", "Which value of the metric is the best.")
    concurrent: bool = key(False, "True: all trials start together or none does.")
    cpus: Annotated[int, Ge(1)] | None = key(None, "CPUs of a trial, on one node; null: env runners and one more.")
    gpus: Annotated[float, Ge(0)] = key(0.0, "GPUs of a trial; 0.5 lets two share one.")
    memory: Annotated[int, Ge(0)] | str = key(0, "Memory of a trial: 8G, or bytes.")
    stall: Annotated[float, Ge(0)] = key(0.0, "Seconds without an iteration after which a trial is ended; 0: never.")
    max_failures: Annotated[int, Ge(0)] = key(0, "How often a trial that fails is started again.")


OWN_GROUPS: dict[str, type] = {"run": Run, "checkpoint": Checkpoint, "stop": Stop, "logger": Logger, "tune": Tune}
