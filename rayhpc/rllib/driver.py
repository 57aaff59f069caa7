"""A training driver from its plan to its exit code."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from rayhpc.rllib import gauges
from rayhpc.rllib.cluster import check_reachable, living_nodes, ray_session
from rayhpc.rllib.deadline import patience_in
from rayhpc.rllib.env_runners import built, census, env_runner_shares, place
from rayhpc.rllib.errors import EXIT_USAGE, UsageError, exit_code
from rayhpc.rllib.evaluations import read_evaluations
from rayhpc.rllib.loop import train
from rayhpc.rllib.metrics import best_return, latest, read_metrics
from rayhpc.rllib.output import Place, make_ready, place_and_start, same
from rayhpc.rllib.output_lock import locked
from rayhpc.rllib.progress import opening, say
from rayhpc.rllib.report import report
from rayhpc.rllib.share import own_share
from rayhpc.rllib.signals import WISHES, Signals
from rayhpc.rllib.training import Plan, Training

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


def drive(program: str, ready: Callable[[Signals], Training]) -> int:
    """Prepare, train, report: the exit code. program: its name in what is said; ready: checks without Ray."""
    signals = Signals(program)
    signals.install()
    # torch would start one thread per core of the host, also of cores that belong to env runners.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        training = ready(signals)
        try:
            reason = run(training)
        finally:
            training.close()
    except UsageError as problem:
        print(f"{program}: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return exit_code(signals.reason or "interrupt", math.nan, None)
    return exit_code(reason, best_return(training.rows), training.plan.require_return)


def prepare(plan: Plan, where: Place, signals: Signals) -> Training:
    """Check the cluster's address, then make the output directory ready; UsageError where one cannot be used."""
    signals.limit_to(patience_in(os.environ), plan.deadline)
    check_reachable(plan.ray_address or os.environ.get("RAY_ADDRESS", ""))
    output, start = place_and_start(where)
    rows = read_metrics(start.path / "metrics.csv") if start else []
    keep = start is not None and same(start.path.parent, output)
    lock = locked(output, where.flag("output"))
    make_ready(output, rows, keep_checkpoints=keep, flag=where.flag("output"))
    training = Training(plan, output, signals, start, rows, start.manifest.last_returns if start else [], lock=lock)
    if start:
        training.evaluations = read_evaluations(start.path.parent / "evaluation.csv", start.manifest.iteration)
    return training


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
    with ray_session(training.plan.ray_address, training.signals):
        training.signals.check()
        algorithm = build(training)
        training.signals.check()
        training.signals.defer()
        training.watchers += gauges.watchers()
        say(opening(training))
        reason = train(training, algorithm)
        report(training, reason)
        for watcher in training.watchers:
            watcher.close()
        # Env runners in the middle of an iteration would answer after it; ray.shutdown ends them all the same.
        if not training.abandoned:
            algorithm.stop()
    return reason


def build(training: Training) -> Algorithm:
    """The algorithm, its env runners on all nodes, in the state of the checkpoint to resume from."""
    plan, start, share = training.plan, training.checkpoint, own_share()
    living = living_nodes()
    nodes = [share.of(living[0])] if share else living
    cpus = [node.cpus for node in nodes]
    # Where there is nothing to spare, RLlib evaluates in the driver.
    others = plan.other_cpus if sum(cpus) > plan.other_cpus + 1 else 0
    wanted = None if plan.num_env_runners is None else plan.num_env_runners + others
    shares = env_runner_shares(cpus, wanted, plan.most_env_runners + others)
    # Env runners that are seeded as at the start would replay the episodes of the start.
    config = plan.config(sum(shares) - others, plan.seed + latest(training.rows).iteration)
    training.signals.check()
    if share:
        share.keep_here(config)
    algorithm = built(config) if share else place(config, nodes, shares)
    training.nodes = census(algorithm, living)
    if start:
        algorithm.restore_from_path(str((start.path / "algorithm").resolve()))
    return algorithm


def leave(code: int) -> NoReturn:
    """End with this code, whatever signal comes now: Python gives the handlers up before the process has ended."""
    for number in WISHES:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
