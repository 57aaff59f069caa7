#!/usr/bin/env python3
"""Train PPO on all nodes of a Ray cluster; ends with 0 when done, 75 when it wants to be run again, else 1.

How to run
----------
In an allocation, or on a laptop with four ranks::

    mpirun -np 4 python -m rayhpc.start examples/train_ppo.py --env CartPole-v1

The script knows nothing of rayhpc: it calls ray.init(), which attaches to the cluster of $RAY_ADDRESS and starts a
Ray of its own where there is none. So ``python examples/train_ppo.py`` works too. It needs ray[rllib], torch, the
environment's packages, and matplotlib for the picture. One CPU is left to the learner, which is in this process; every
other CPU of the cluster gets an env runner. ``--help`` lists the flags; `ppo_config` is the place for any others.

What it writes, in ppo-results/<env> unless --output says otherwise:

    metrics.csv           one line per iteration, as it ends
    checkpoint-000010/    RLlib's checkpoint (`algorithm`, for Algorithm.from_checkpoint), metrics.csv, manifest.json
    result.json           what was reached, why it ended, where it ran; absent while it runs and after a crash
    learning-curve.png    mean return over environment steps

When the job's time is nearly up (SIGUSR1, SIGTERM, or $RAYHPC_DEADLINE in Unix seconds) it ends the iteration, writes a
checkpoint and exits with 75. In a job script always say ``--resume``: the first job then starts from zero, and each
job after it goes on with the same iteration, optimizer and metrics.csv. A checkpoint that a kill cut in half is never
taken. Episodes under way at the end of a job are lost, and random numbers are drawn anew: a resumed run learns like
one that was never stopped, but not bit by bit.

Results to expect
-----------------
The command above (defaults: seed 0, stop at a mean return of 450 over 100 episodes) on a virtual machine with 2 cores,
where four Ray nodes have one CPU each; Python 3.11.7, Ray 2.60.0, torch 2.13.0 (CPU), Gymnasium 1.2.2, NumPy 2.4.6:

    nodes           seed  iterations  steps    mean return  training  whole job
    4 (mpirun)      0     19          76 068   466          0:49      1:13
    4 (mpirun)      0     19          76 068   466          1:30      2:25     other work on the cores
    4 (mpirun)      1     18          72 064   467          1:07      1:33     other work on the cores
    4 (mpirun)      2     18          72 066   462          1:24      2:12     other work on the cores
    1 (no mpirun)   0     18          72 018   457          1:16      1:52     one node with 2 CPUs; other work

Stopped by SIGUSR1 after 4 iterations (the checkpoint was there 2.5 s after the signal, the job ended with 75 after
5.2 s) and resumed, seed 0 reached 471 after 19 iterations and 76 072 steps. Ray prints one line on "constructor
arguments in the object store" at the start: it tells how env runners are restarted, and is harmless.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import itertools
import json
import logging
import math
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

EXIT_DONE = 0
EXIT_RETURN_MISSED = 1
EXIT_USAGE = 2
EXIT_REQUEUE = 75
EXIT_INTERRUPTED = 130

STOP_RETURNS = {"CartPole-v1": 450.0}
WINDOW = 100
MIN_STEPS_PER_ENVIRONMENT = 32
CONNECT_TIMEOUT_S = 30.0
SAMPLE_TIMEOUT_S = 600.0
NO_SAMPLES_TIMEOUT_S = 120.0
FREE_CPUS_TIMEOUT_S = 60.0
DEADLINE_MARGIN_S = 15.0
RECENT_ITERATIONS = 10
PARTIAL = ".partial-"


# ---- the command line ------------------------------------------------------------------------------------


class UsageError(Exception):
    """What was asked for cannot be done; the message says why and what to do instead."""


class Options(argparse.Namespace):
    """The parsed command line: one attribute per flag."""

    env: str
    lr: float
    gamma: float
    train_batch_size: int
    minibatch_size: int
    epochs: int
    seed: int
    stop_return: float | None
    stop_iterations: int
    stop_timesteps: int | None
    stop_minutes: float | None
    require_return: float | None
    num_env_runners: int | None
    envs_per_runner: int
    ray_address: str | None
    output: Path | None
    checkpoint_every: int
    keep: int
    resume: str | None
    overwrite: bool


def at_least(least: int) -> Callable[[str], int]:
    """A reader of whole numbers that are not below `least`, for argparse."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    return whole_number


def above_zero(text: str) -> float:
    """Read a finite number above zero, for argparse."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


Flag = tuple[str, Callable[[str], object], object, str, str]

FLAGS: dict[str, list[Flag]] = {
    "learning": [
        ("--env", str, "CartPole-v1", "ID", "Gymnasium environment, as id or module:id"),
        ("--lr", above_zero, 3e-4, "X", "learning rate of Adam"),
        ("--gamma", above_zero, 0.99, "X", "discount factor"),
        ("--train-batch-size", at_least(1), 4000, "N", "environment steps per iteration, of all env runners"),
        ("--minibatch-size", at_least(1), 250, "N", "environment steps per gradient update"),
        ("--epochs", at_least(1), 8, "N", "passes over the train batch in each iteration"),
        ("--seed", at_least(0), 0, "N", "seed of the networks and the environments"),
    ],
    "when to stop: at the first of these, resumed runs included": [
        ("--stop-return", float, None, "R", f"mean return of the last {WINDOW} episodes (default: 450 for"
         " CartPole-v1, else the environment's own reward threshold)"),
        ("--stop-iterations", at_least(1), 200, "N", "iterations"),
        ("--stop-timesteps", at_least(1), None, "N", "environment steps"),
        ("--stop-minutes", above_zero, None, "X", "minutes of training"),
        ("--require-return", float, None, "R", "end with 1 if the mean return never reached R"),
    ],
    "cluster": [
        ("--num-env-runners", at_least(0), None, "N", "processes that step environments; 0: the driver does"
         " (default: one for every CPU of the cluster but one, which is the learner's)"),
        ("--envs-per-runner", at_least(1), 4, "N", "environments in each env runner, stepped together"),
        ("--ray-address", str, None, "HOST:PORT", "cluster to attach to (default: $RAY_ADDRESS, else a"
         " Ray of its own on this host)"),
    ],
    "results": [
        ("--output", Path, None, "DIR", "place of metrics.csv, learning-curve.png, result.json and"
         " checkpoints (default: ppo-results/<env>, or <env>-run2 and so on once there are checkpoints)"),
        ("--checkpoint-every", at_least(1), 10, "N", "iterations from one checkpoint to the next"),
        ("--keep", at_least(1), 3, "K", "newest checkpoints to keep"),
    ],
}  # fmt: skip

EPILOG = """Exit codes: 0 done; 1 failed, or --require-return missed; 2 bad arguments; 75 stopped with a checkpoint
by SIGUSR1, SIGTERM or $RAYHPC_DEADLINE, run it again with --resume; 130 stopped with a checkpoint by Ctrl-C.
The learner uses one thread unless $OMP_NUM_THREADS says otherwise."""

RESUME = """go on from this checkpoint, or from the newest complete one in this directory (default: in the output;
if none is there, start from zero, so that a job script can always say --resume)"""


def build_parser() -> argparse.ArgumentParser:
    """Every flag with its default and its meaning."""
    parser = argparse.ArgumentParser(
        description="Train PPO on a Gymnasium environment, with env runners on all nodes of a Ray cluster.",
        epilog=EPILOG,
    )
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for name, kind, default, metavar, text in flags:
            shown = text if default is None else f"{text} (default: {default})"
            group.add_argument(name, type=kind, default=default, metavar=metavar, help=shown)
    group.add_argument("--overwrite", action="store_true", help="delete the results of an earlier run there")
    group.add_argument("--resume", nargs="?", const="", metavar="PATH", help=RESUME)
    return parser


# ---- what is known after each iteration, and what follows from it ----------------------------------------


@dataclass(frozen=True)
class Row:
    """One iteration, one line of metrics.csv; totals include resumed runs, times are in seconds of training.

    The returns are those of the last 100 episodes (fewer at first) and NaN before the first one has ended.
    """

    iteration: int
    timesteps: int
    episodes: int
    seconds: float
    return_mean: float
    return_min: float
    return_max: float
    steps_per_second: float


BEFORE_TRAINING = Row(0, 0, 0, 0.0, math.nan, math.nan, math.nan, math.nan)


def latest(rows: Sequence[Row]) -> Row:
    """The last row; zeros before the first iteration."""
    return rows[-1] if rows else BEFORE_TRAINING


def best_return(rows: Sequence[Row]) -> float:
    """The highest mean return over a full window of episodes; NaN before there was one."""
    return max((row.return_mean for row in rows if row.episodes >= WINDOW), default=math.nan)


def reached(options: Options, stop_return: float | None, rows: Sequence[Row]) -> str | None:
    """The name of the stop condition that the last row meets; None to go on."""
    last = latest(rows)
    returned = last.return_mean if last.episodes >= WINDOW else math.nan
    met = {
        "return": stop_return is not None and returned >= stop_return,
        "iterations": last.iteration >= options.stop_iterations,
        "timesteps": options.stop_timesteps is not None and last.timesteps >= options.stop_timesteps,
        "minutes": options.stop_minutes is not None and last.seconds >= 60 * options.stop_minutes,
    }
    return next((name for name, is_met in met.items() if is_met), None)


def next_iteration_fits(rows: Sequence[Row], deadline: float | None, now: float, checkpoint_s: float) -> bool:
    """Whether one more iteration and its checkpoint will end well before the deadline (Unix seconds)."""
    if deadline is None:
        return True
    ends = [0.0, *(row.seconds for row in rows)][-RECENT_ITERATIONS - 1 :]
    longest = max((after - before for before, after in itertools.pairwise(ends)), default=0.0)
    return now + 1.5 * longest + 2 * checkpoint_s + DEADLINE_MARGIN_S < deadline


def exit_code(reason: str, best: float, required: float | None) -> int:
    """The exit code of a run that ended for this reason with this best mean return."""
    if reason in ("signal", "deadline"):
        return EXIT_REQUEUE
    if reason == "interrupt":
        return EXIT_INTERRUPTED
    missed = required is not None and not best >= required
    return EXIT_RETURN_MISSED if missed else EXIT_DONE


def env_runner_shares(cpus: Sequence[int], wanted: int | None, most: int) -> list[int]:
    """How many env runners each node gets, dealt out in turn; UsageError if they are more than the CPUs.

    `cpus` are those of each node, the driver's first: one of that node's is left to the learner, unless
    `wanted` asks for all. Without `wanted` there is one env runner per CPU that is left, at most `most`.
    """
    if wanted is not None and wanted > sum(cpus):
        raise UsageError(f"--num-env-runners {wanted}: the cluster has {sum(cpus)} CPUs, and each takes one")
    learners = 1 if wanted is None or wanted < sum(cpus) else 0
    free = [max(0, number - learners * (node == 0)) for node, number in enumerate(cpus)]
    slots = sorted((turn, node == 0, node) for node, number in enumerate(free) for turn in range(number))
    taken = [node for _, _, node in slots[: most if wanted is None else wanted]]
    return [taken.count(node) for node in range(len(cpus))]


# ---- the algorithm and where its parts run ---------------------------------------------------------------


def ppo_config(options: Options, env_runners: int, seed: int) -> PPOConfig:
    """RLlib's configuration: the place to change what is learned, and how."""
    from ray.rllib.algorithms.ppo import PPOConfig

    return (
        PPOConfig()
        .environment(options.env)
        .framework("torch")
        .env_runners(
            num_env_runners=env_runners,
            num_envs_per_env_runner=options.envs_per_runner,
            sample_timeout_s=SAMPLE_TIMEOUT_S,
        )
        .training(
            lr=options.lr,
            gamma=options.gamma,
            train_batch_size_per_learner=options.train_batch_size,
            minibatch_size=options.minibatch_size,
            num_epochs=options.epochs,
            lambda_=0.95,
            clip_param=0.2,
            vf_clip_param=math.inf,
            vf_loss_coeff=0.5,
            # RLlib's checkpoints lack the adaptive KL coefficient: a resumed run would learn differently.
            use_kl_loss=False,
        )
        .callbacks(on_sample_end=episode_returns_logger())
        .debugging(seed=seed, log_level="ERROR")
    )


def episode_returns_logger() -> Callable[..., None]:
    """A callback of the env runners that logs the return of every episode that has ended.

    RLlib's episode_return_mean covers one iteration's episodes only, and is a mean of env runners' means.
    """
    unfinished: dict[str, float] = {}

    def on_sample_end(*, samples: Sequence[SingleAgentEpisode], metrics_logger: MetricsLogger, **_: object) -> None:
        for part in samples:
            total = unfinished.pop(part.id_, 0.0) + float(part.get_return())
            if part.is_done:
                metrics_logger.log_value("episode_returns", total, reduce="item_series")
            else:
                unfinished[part.id_] = total

    return on_sample_end


@dataclass(frozen=True)
class Node:
    """A living Ray node."""

    node_id: str
    host: str
    cpus: int


def living_nodes() -> list[Node]:
    """The nodes of the cluster, the driver's first."""
    import ray

    mine = ray.get_runtime_context().get_node_id()
    nodes = [
        Node(str(node["NodeID"]), str(node["NodeManagerHostname"]), int(node["Resources"].get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.node_id != mine, node.host, node.node_id))


def build(training: Training) -> Algorithm:
    """The algorithm, its env runners on all nodes, in the state of the checkpoint to resume from."""
    options, start = training.options, training.checkpoint
    nodes = living_nodes()
    most = max(1, options.train_batch_size // (options.envs_per_runner * MIN_STEPS_PER_ENVIRONMENT))
    shares = env_runner_shares([node.cpus for node in nodes], options.num_env_runners, most)
    # Env runners that are seeded as at the start would replay the episodes of the start.
    seed = options.seed + latest(training.rows).iteration
    config = ppo_config(options, sum(shares), seed)
    training.signals.check()
    algorithm = place(config, nodes, shares)
    training.nodes = census(algorithm, nodes)
    if start:
        algorithm.restore_from_path(str((start.path / "algorithm").resolve()))
    return algorithm


def place(config: PPOConfig, nodes: Sequence[Node], shares: Sequence[int]) -> Algorithm:
    """Build the algorithm such that each node gets its share of the env runners; raises UsageError."""
    from ray.tune.trainable import trainable

    pairs = zip(nodes, shares, strict=True)
    spared = {node.node_id: node.cpus - share for node, share in pairs if node.cpus > share}
    with ExitStack() as stack:
        # RLlib makes an empty directory in ~/ray_results for every run, and no option moves it.
        trainable.DEFAULT_STORAGE_PATH = stack.enter_context(tempfile.TemporaryDirectory())
        if any(shares) and spared:
            stack.enter_context(spare(spared))
        return config.build_algo()


@contextmanager
def spare(cpus: Mapping[str, int]) -> Iterator[None]:
    """Hold these CPUs (number per node id) for the block, so that actors go elsewhere; raises UsageError.

    Outside of Ray Tune RLlib cannot place its env runners, and Ray by itself fills the driver's node first.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(
        [{"CPU": number} for number in cpus.values()],
        bundle_label_selector=[{"ray.io/node-id": node_id} for node_id in cpus],
    )
    try:
        if not group.wait(timeout_seconds=FREE_CPUS_TIMEOUT_S):
            raise UsageError("the CPUs of this cluster are in use: wait for them, or take another cluster")
        yield
    finally:
        remove_placement_group(group)


def census(algorithm: Algorithm, nodes: Sequence[Node]) -> list[dict[str, object]]:
    """The nodes and how many env runners each has, as told by the env runners."""
    import ray

    def home(_: object) -> str:
        return str(ray.get_runtime_context().get_node_id())

    homes = algorithm.env_runner_group.foreach_env_runner(home, local_env_runner=False)
    return [{**asdict(node), "env_runners": homes.count(node.node_id)} for node in nodes]


# ---- training --------------------------------------------------------------------------------------------


@dataclass
class Training:
    """One training run: what was asked for, what is known so far, and what was written last."""

    options: Options
    output: Path
    stop_return: float | None
    deadline: float | None
    signals: Signals
    checkpoint: Checkpoint | None
    rows: list[Row]
    returns: list[float]
    checkpoint_s: float = 0.0
    nodes: list[dict[str, object]] = field(default_factory=list)

    def why_stop(self) -> str | None:
        """The reason to start no further iteration; None to go on."""
        if reason := reached(self.options, self.stop_return, self.rows) or self.signals.reason:
            return reason
        fits = next_iteration_fits(self.rows, self.deadline, time.time(), self.checkpoint_s)
        return None if fits else "deadline"


def run(training: Training) -> str:
    """Train, if there is anything left to do, and report; the reason of the end is returned."""
    reason = training.why_stop()
    if reason is None:
        try:
            return run_on_cluster(training)
        except KeyboardInterrupt:
            reason = training.signals.reason or "interrupt"
    report(training, reason)
    return reason


def run_on_cluster(training: Training) -> str:
    """All that needs Ray; a signal that comes before the first iteration leaves as KeyboardInterrupt."""
    with ray_session(training.options.ray_address, training.signals):
        training.signals.check()
        algorithm = build(training)
        training.signals.check()
        training.signals.defer()
        say(opening(training))
        reason = train(training, algorithm)
        report(training, reason)
        algorithm.stop()
    return reason


@contextmanager
def ray_session(address: str | None, signals: Signals) -> Iterator[None]:
    """Ray for the block: the cluster at `address` or $RAY_ADDRESS, else a local one; ConnectionError if none."""
    import ray

    signals.check()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except SystemExit:
        # While ray.init runs, SIGTERM has a handler of Ray's, which calls sys.exit.
        signals.first = signals.first or signal.SIGTERM
        raise KeyboardInterrupt from None
    finally:
        signals.install()
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def train(training: Training, algorithm: Algorithm) -> str:
    """Iterate until there is a reason to stop, which is returned; a checkpoint then holds all iterations.

    RuntimeError: no env runner has delivered a step for two minutes. RLlib restarts lost ones within seconds.
    """
    sampled = time.monotonic()
    began = sampled - latest(training.rows).seconds
    with (training.output / "metrics.csv").open("a") as metrics:
        while (reason := training.why_stop()) is None:
            row = iterate(training, algorithm, began)
            if row is None and time.monotonic() - sampled > NO_SAMPLES_TIMEOUT_S:
                raise RuntimeError(f"no env runner has delivered a step for {NO_SAMPLES_TIMEOUT_S:.0f} s")
            if row is None:
                continue
            sampled = time.monotonic()
            training.rows.append(row)
            metrics.write(csv_lines([row]))
            metrics.flush()
            say(table_line(row, best_return(training.rows)))
            if row.iteration % training.options.checkpoint_every == 0:
                save(training, algorithm)
    save(training, algorithm)
    return reason


def iterate(training: Training, algorithm: Algorithm, began: float) -> Row | None:
    """Sample and learn once; None if all env runners were lost, in which case nothing was learned either."""
    started = time.monotonic()
    result = algorithm.train()["env_runners"]
    ended = time.monotonic()
    steps = float(result.get("num_env_steps_sampled", math.nan))
    if math.isnan(steps):
        return None
    returns = [float(number) for number in result.get("episode_returns", [])]
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


def save(training: Training, algorithm: Algorithm) -> None:
    """Write a checkpoint, unless the last one is of the same iteration, and delete those beyond --keep."""
    last = latest(training.rows)
    if last.iteration == (training.checkpoint.manifest.iteration if training.checkpoint else 0):
        return
    started = time.monotonic()
    env, returns = training.options.env, training.returns
    manifest = Manifest(env, last.iteration, last.timesteps, last.seconds, returns)
    training.checkpoint = write_checkpoint(training.output, manifest, training.rows, algorithm.save_to_path)
    for old in checkpoints_in(training.output)[: -training.options.keep]:
        delete_checkpoint(old.path)
    training.checkpoint_s = time.monotonic() - started


class Signals:
    """SIGUSR1, SIGTERM and SIGINT as one wish to stop: KeyboardInterrupt until `defer`, then a note."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._deferred = False

    def install(self) -> None:
        """Catch the signals from here on; to be called again once somebody else has set handlers."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def defer(self) -> None:
        """Let the work at hand be finished from here on."""
        self._deferred = True

    def check(self) -> None:
        """Raise again where the first KeyboardInterrupt was lost, as Python does with those in its own callbacks."""
        if self.first is not None:
            raise KeyboardInterrupt

    @property
    def reason(self) -> str | None:
        """The stop reason that the first signal stands for."""
        if self.first is None:
            return None
        return "interrupt" if self.first == signal.SIGINT else "signal"

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.first is not None:
            return
        self.first = signal.Signals(number)
        with suppress(OSError):
            os.write(2, f"train_ppo: {self.first.name}: stopping\n".encode())
        if not self._deferred:
            # KeyboardInterrupt is the one exception of a handler that Ray's blocking calls pass on.
            raise KeyboardInterrupt


# ---- before Ray starts -----------------------------------------------------------------------------------


def prepare(options: Options, signals: Signals) -> Training:
    """Check what can be checked without Ray, then make the output directory ready; raises UsageError."""
    if options.minibatch_size > options.train_batch_size:
        raise UsageError("--minibatch-size must not be larger than --train-batch-size")
    stop_return = options.stop_return
    threshold = reward_threshold(options.env)
    if stop_return is None:
        stop_return = STOP_RETURNS.get(options.env, threshold)
    deadline = deadline_in(os.environ)
    check_reachable(options.ray_address or os.environ.get("RAY_ADDRESS", ""))
    output, start = place_and_start(options)
    rows = read_metrics(start.path / "metrics.csv") if start else []
    make_ready(output, rows, keep_checkpoints=start is not None and same(start.path.parent, output))
    returns = start.manifest.last_returns if start else []
    return Training(options, output, stop_return, deadline, signals, start, rows, returns)


def reward_threshold(env: str) -> float | None:
    """The return at which the environment counts as solved, if it says so; UsageError if there is none."""
    import gymnasium

    try:
        environment = gymnasium.make(env)
    except (gymnasium.error.Error, ImportError) as problem:
        raise UsageError(f"--env {env}: {problem}") from problem
    environment.close()
    return environment.spec.reward_threshold if environment.spec else None


def deadline_in(environment: Mapping[str, str]) -> float | None:
    """The end of the job in Unix seconds, if RAYHPC_DEADLINE tells it; UsageError if it is no number."""
    text = environment.get("RAYHPC_DEADLINE", "")
    try:
        return float(text) if text else None
    except ValueError:
        raise UsageError(f"RAYHPC_DEADLINE={text!r} is not a time in Unix seconds") from None


def check_reachable(address: str) -> None:
    """Raise UsageError if nobody listens at HOST:PORT, which ray.init would try for a quarter of an hour."""
    host, colon, port = address.rpartition(":")
    if "/" in host or not (host and colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as problem:
        raise UsageError(f"no Ray cluster at {address} (from --ray-address or $RAY_ADDRESS): {problem}") from problem


def place_and_start(options: Options) -> tuple[Path, Checkpoint | None]:
    """The output directory and the checkpoint to go on from, None for zero.

    UsageError: there is no such checkpoint, or two trainings would be mixed in one directory.
    """
    named = Path(options.resume) if options.resume else None
    start = (checkpoint_at(named) or newest_checkpoint(named)) if named else None
    if named and not start:
        raise UsageError(f"--resume {named}: there is no complete checkpoint")
    output = options.output or (start.path.parent if start else default_output(options))
    newest = newest_checkpoint(output)
    if options.resume == "":
        start = newest
    if start and start.manifest.env != options.env:
        raise UsageError(f"{start.path} was trained on --env {start.manifest.env}, not on {options.env}")
    if start and newest and same(start.path.parent, output):
        if options.overwrite:
            raise UsageError("--overwrite would delete what --resume needs: leave one of them out")
        if newest.manifest.iteration > start.manifest.iteration:
            raise UsageError(f"{newest.path} is newer than {start.path}: give another --output to branch off")
    elif newest and not options.overwrite:
        raise UsageError(
            f"{output} has checkpoints of an earlier run: go on with them (--resume), delete them"
            " (--overwrite), or give another --output"
        )
    return output, start


def default_output(options: Options) -> Path:
    """ppo-results/<env>, or <env>-run2 and so on once that has checkpoints; the last one of these to resume."""
    first = Path("ppo-results", re.sub(r"[^\w.-]+", "-", options.env))
    runs = (first.with_name(f"{first.name}-run{number}") for number in itertools.count(2))
    taken = list(itertools.takewhile(newest_checkpoint, itertools.chain([first], runs)))
    if options.overwrite or not taken:
        return first
    return taken[-1] if options.resume == "" else first.with_name(f"{first.name}-run{len(taken) + 1}")


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, which need not exist."""
    return one.resolve() == other.resolve()


def make_ready(output: Path, rows: Sequence[Row], *, keep_checkpoints: bool) -> None:
    """Leave in the directory only what this run builds on; raises UsageError if it cannot be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for leftover in output.glob(f"{PARTIAL}checkpoint-*"):
            shutil.rmtree(leftover)
        for checkpoint in [] if keep_checkpoints else checkpoints_in(output):
            delete_checkpoint(checkpoint.path)
        for name in ("result.json", "learning-curve.png"):
            (output / name).unlink(missing_ok=True)
        write_whole(output / "metrics.csv", (CSV_HEADER + csv_lines(rows)).encode())
    except OSError as problem:
        raise UsageError(f"--output {output}: {problem}") from problem


# ---- checkpoints and other files: whole or absent --------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself; it is written last, so a directory without it is no checkpoint."""

    env: str
    iteration: int
    timesteps: int
    seconds: float
    last_returns: list[float]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: RLlib's own in `algorithm`, metrics.csv up to here, and the manifest."""

    path: Path
    manifest: Manifest


def checkpoint_at(path: Path) -> Checkpoint | None:
    """The checkpoint in this directory; None if it is none, or not a complete one."""
    if path.resolve().name.startswith(PARTIAL):
        return None
    try:
        return Checkpoint(path, Manifest(**json.loads((path / "manifest.json").read_text())))
    except (OSError, ValueError, TypeError):
        return None


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of an output directory, the newest last."""
    named = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    found = (checkpoint_at(path) for path in named)
    return sorted(filter(None, found), key=lambda checkpoint: checkpoint.manifest.iteration)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The complete checkpoint of an output directory that has the most iterations."""
    return next(reversed(checkpoints_in(folder)), None)


def write_checkpoint(
    folder: Path, manifest: Manifest, rows: Sequence[Row], save_to: Callable[[str], object]
) -> Checkpoint:
    """Write under another name, flush, rename: a kill at any moment leaves only whole checkpoints."""
    final = folder / f"checkpoint-{manifest.iteration:06d}"
    if final.exists():
        delete_checkpoint(final)
    partial = partial_name(final)
    partial.mkdir()
    save_to(str((partial / "algorithm").resolve()))
    (partial / "metrics.csv").write_text(CSV_HEADER + csv_lines(rows))
    (partial / "manifest.json").write_text(json_text(asdict(manifest)))
    for path in (*partial.rglob("*"), partial):
        flush(path)
    partial.rename(final)
    flush(folder)
    return Checkpoint(final, manifest)


def delete_checkpoint(path: Path) -> None:
    """Rename, then delete: a kill at any moment leaves nothing that looks complete and is not."""
    shutil.rmtree(path.rename(partial_name(path)))


def partial_name(path: Path) -> Path:
    """Its name while a checkpoint is not whole; what an earlier run left under that name is deleted."""
    name = path.with_name(PARTIAL + path.name)
    if name.exists():
        shutil.rmtree(name)
    return name


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: its readers see the old one or the new one."""
    partial = path.with_name(PARTIAL + path.name)
    partial.write_bytes(content)
    flush(partial)
    partial.replace(path)


def flush(path: Path) -> None:
    """Wait until a file or directory is on the disk, so that it outlives a crash of the host too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


CSV_HEADER = ",".join(column.name for column in fields(Row)) + "\n"


def csv_lines(rows: Sequence[Row]) -> str:
    """Rows as lines of metrics.csv; what is not known is an empty cell."""
    return "".join(",".join(map(csv_cell, astuple(row))) + "\n" for row in rows)


def csv_cell(value: float) -> str:
    """Six digits after the point are enough for readers."""
    return "" if math.isnan(value) else str(round(value, 6))


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.csv; raises KeyError or ValueError if it is not one of these."""
    with path.open(newline="") as lines:
        return [
            Row(
                iteration=int(record["iteration"]),
                timesteps=int(record["timesteps"]),
                episodes=int(record["episodes"]),
                seconds=float(record["seconds"]),
                return_mean=float(record["return_mean"] or math.nan),
                return_min=float(record["return_min"] or math.nan),
                return_max=float(record["return_max"] or math.nan),
                steps_per_second=float(record["steps_per_second"]),
            )
            for record in csv.DictReader(lines)
        ]


def json_text(value: Mapping[str, object]) -> str:
    """Readable JSON; raises ValueError for NaN, which JSON does not have."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


# ---- what the user sees ----------------------------------------------------------------------------------


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


def opening(training: Training) -> str:
    """What is trained where, and the head of the table."""
    options, start = training.options, training.checkpoint
    runners = [int(str(node["env_runners"])) for node in training.nodes]
    spread = f"env runners: {sum(runners)} on {sum(map(bool, runners))} of {len(runners)} Ray nodes"
    lines = [
        f"PPO on {options.env}, seed {options.seed}: {spread if any(runners) else 'no env runners'}",
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


def number(value: float) -> str:
    """A return with one digit, a dash if it is not known yet."""
    return "-" if math.isnan(value) else f"{value:.1f}"


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
        "env": training.options.env,
        "seed": training.options.seed,
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


def learning_curve(training: Training) -> bytes:
    """A PNG of the mean return over the environment steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    rows = training.rows
    steps = [row.timesteps for row in rows]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot(
        title=f"PPO on {training.options.env}", xlabel="environment steps", ylabel="return of an episode"
    )
    low, high = [row.return_min for row in rows], [row.return_max for row in rows]
    axes.plot(steps, [row.return_mean for row in rows], label=f"mean of the last {WINDOW} episodes")
    axes.fill_between(steps, low, high, alpha=0.15, linewidth=0, label="lowest to highest of these episodes")
    if training.stop_return is not None:
        axes.axhline(training.stop_return, color="gray", linestyle="--", label="return to stop at")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a failure leaves as an exception, which Python makes 1."""
    signals = Signals()
    signals.install()
    options = build_parser().parse_args(arguments, namespace=Options())
    # torch would start one thread per core of the host, also of cores that belong to env runners.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        training = prepare(options, signals)
        reason = run(training)
    except UsageError as problem:
        print(f"train_ppo: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return exit_code(signals.reason or "interrupt", math.nan, None)
    return exit_code(reason, best_return(training.rows), options.require_return)


def leave(code: int) -> NoReturn:
    """End with this code, whatever signal comes now: Python gives the handlers up before the process has ended."""
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
