"""One training run: what is asked for, and what is known so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayhpc.rllib.checkpoints import Checkpoint
from rayhpc.rllib.deadline import end_of_job, next_iteration_fits
from rayhpc.rllib.evaluations import Evaluation
from rayhpc.rllib.metrics import Row
from rayhpc.rllib.signals import Signals
from rayhpc.rllib.stop import StopConditions, reached

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


@dataclass(frozen=True)
class Plan:
    """What is asked for, whatever the algorithm.

    config: RLlib's configuration, given the number of env runners and a seed. num_env_runners: None for one per CPU
    but one, at most `most_env_runners`. other_cpus: those of other actors, such as env runners of evaluation.
    deadline: asked before each iteration, in Unix seconds. require_return: the exit code is 1 where the best mean
    return is below it.
    """

    algorithm: str
    env: str
    config: Callable[[int, int], AlgorithmConfig]
    stop: StopConditions
    require_return: float | None = None
    seed: int = 0
    num_env_runners: int | None = None
    most_env_runners: int = 1_000_000
    other_cpus: int = 0
    ray_address: str | None = None
    checkpoint_every: int = 10
    keep: int = 3
    deadline: Callable[[], float] = end_of_job


@dataclass(frozen=True)
class Watcher:
    """Somebody who is told of every iteration, with RLlib's whole result, and of the end."""

    tell: Callable[[Training, Row, Mapping[str, Any]], None]
    close: Callable[[], None]


@dataclass
class Training:
    """What is known so far, and what was written last."""

    plan: Plan
    output: Path
    signals: Signals
    checkpoint: Checkpoint | None = None
    rows: list[Row] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    checkpoint_s: float = 0.0
    nodes: list[dict[str, object]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    result: Mapping[str, Any] = field(default_factory=dict)
    abandoned: bool = False
    lock: BaseFileLock | None = None

    def close(self) -> None:
        """Give the output directory to others."""
        if self.lock is not None:
            self.lock.release()

    def why_stop(self) -> str | None:
        """The reason to start no further iteration; None to go on."""
        if reason := reached(self.plan.stop, self.rows) or self.signals.reason:
            return reason
        fits = next_iteration_fits(self.rows, self.plan.deadline(), time.time(), self.checkpoint_s)
        return None if fits else "deadline"
