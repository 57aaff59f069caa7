"""Iterate until there is a reason to stop, and save."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from rayhpc.rllib.checkpoints import Manifest, checkpoints_in, delete_checkpoint, write_checkpoint
from rayhpc.rllib.evaluations import evaluation_in, text_of
from rayhpc.rllib.files import write_whole
from rayhpc.rllib.metrics import WINDOW, Row, best_return, csv_lines, latest
from rayhpc.rllib.progress import say, table_line
from rayhpc.rllib.training import Training

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

NO_SAMPLES_TIMEOUT_S = 120.0
# What a driver needs to end once its iteration has ended: the report, ray.shutdown and Python's own exit.
EXIT_S = 2.5
LEAST_CHECKPOINT_S = 1.0


def train(training: Training, algorithm: Algorithm) -> str:
    """Iterate until there is a reason to stop, which is returned; a checkpoint then holds all iterations.

    RuntimeError: no env runner has delivered a step for two minutes. RLlib restarts lost ones within seconds.
    """
    sampled = time.monotonic()
    began = sampled - latest(training.rows).seconds
    with (training.output / "metrics.csv").open("a") as metrics:
        while (reason := training.why_stop()) is None:
            try:
                with training.signals.bounded(EXIT_S + max(LEAST_CHECKPOINT_S, 2 * training.checkpoint_s)):
                    row = iterate(training, algorithm, began)
            except KeyboardInterrupt:
                return abandon(training, algorithm)
            if row is None and time.monotonic() - sampled > NO_SAMPLES_TIMEOUT_S:
                raise RuntimeError(f"no env runner has delivered a step for {NO_SAMPLES_TIMEOUT_S:.0f} s")
            if row is None:
                continue
            sampled = time.monotonic()
            training.rows.append(row)
            metrics.write(csv_lines([row]))
            metrics.flush()
            say(table_line(row, best_return(training.rows)))
            if row.iteration % training.plan.checkpoint_every == 0:
                save(training, algorithm)
            tell(training, row)
    save(training, algorithm)
    return reason


def abandon(training: Training, algorithm: Algorithm) -> str:
    """Leave the iteration under way, and save what was learned before it if that takes no longer than there is time.

    Env runners answer nobody until they have sampled, and a checkpoint may need one of them.
    """
    training.abandoned = True
    signals, last = training.signals, latest(training.rows).iteration
    signals.note(f"the iteration under way would outlast {signals.limit}: abandoned")
    try:
        with signals.bounded(EXIT_S):
            save(training, algorithm)
    except KeyboardInterrupt:
        signals.note(f"no time for a checkpoint of iteration {last}: the newest one before it stays")
    return signals.reason or "interrupt"


def iterate(training: Training, algorithm: Algorithm, began: float) -> Row | None:
    """Sample and learn once; None if all env runners were lost, in which case nothing was learned either."""
    started = time.monotonic()
    training.result = algorithm.train()
    ended = time.monotonic()
    result = training.result["env_runners"]
    steps = float(result.get("num_env_steps_sampled", math.nan))
    if math.isnan(steps):
        return None
    ended_episodes = result.get("episode_returns", [])
    # A single NaN stands for an iteration in which no episode has ended (SAC, whose iterations are short).
    returns = [float(number) for number in ended_episodes] if isinstance(ended_episodes, list) else []
    training.returns = window = [*training.returns, *returns][-WINDOW:]
    before = latest(training.rows)
    return Row(
        iteration=before.iteration + 1,
        timesteps=before.timesteps + int(steps),
        episodes=before.episodes + len(returns),
        seconds=ended - began,
        return_mean=sum(window) / len(window) if window else math.nan,
        return_min=min(window, default=math.nan),
        return_max=max(window, default=math.nan),
        steps_per_second=steps / (ended - started),
    )


def tell(training: Training, row: Row) -> None:
    """Keep the evaluation that came with an iteration, and tell those who watch."""
    if evaluation := evaluation_in(training.result, row):
        training.evaluations.append(evaluation)
        write_whole(training.output / "evaluation.csv", text_of(training.evaluations))
    for watcher in training.watchers:
        watcher.tell(training, row, training.result)


def save(training: Training, algorithm: Algorithm) -> None:
    """Write a checkpoint, unless the last one is of the same iteration, and delete those beyond `keep`."""
    last = latest(training.rows)
    if last.iteration == (training.checkpoint.manifest.iteration if training.checkpoint else 0):
        return
    started = time.monotonic()
    manifest = Manifest(training.plan.env, last.iteration, last.timesteps, last.seconds, training.returns)
    training.checkpoint = write_checkpoint(training.output, manifest, training.rows, algorithm.save_to_path)
    for old in checkpoints_in(training.output)[: -training.plan.keep]:
        delete_checkpoint(old.path)
    training.checkpoint_s = time.monotonic() - started
