"""One rank of a run, from the survey of its host: all ranks agree, then rank 0 leads and the others follow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rayhpc import schedulers
from rayhpc.bootstrap import driver, metrics, plan, resources
from rayhpc.bootstrap.join_plan import JoinPlanner
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.plan import ClusterPlan
from rayhpc.bootstrap.watch import Watch
from rayhpc.errors import RayhpcError
from rayhpc.host import gpu_variables, this_host
from rayhpc.log import Console
from rayhpc.messages import Milestone
from rayhpc.model import HEAD_RANK, Assignment, Checked, RankResources
from rayhpc.options import Options
from rayhpc.processes.ray_start import RayStart
from rayhpc.processes.signals import Signals
from rayhpc.ranks import comm as ranks
from rayhpc.ranks import launcher
from rayhpc.ranks.comm import Comm, Unreachable
from rayhpc.records.run_directory import EventLog
from rayhpc.schedulers.facts import Scheduler

EarlyStart = Callable[[Assignment], RayStart | None]
_UNCHECKED = Checked()


def bootstrap(
    options: Options,
    command: Sequence[str],
    comm: Comm,
    console: Console,
    early_start: EarlyStart = lambda _: None,
    checked: Checked = _UNCHECKED,
) -> int:
    """Start a Ray cluster in this allocation, run the command on it, shut everything down; the job's exit code.

    early_start: the `ray start` that imports Ray already, if it fits an assignment; checked: what a check has said of
    the hosts. Never raises for what a user can meet: rank 0 prints a fault of any rank once, and the exit code is the
    fault's.
    """
    environ = os.environ
    environ.update(gpu_variables.for_ray(environ))
    place = f"rank {comm.rank} on {this_host.name()}"
    imported = Milestone(comm.rank, this_host.name(), "imported", time.time(), since=this_host.started_at())
    scheduler = schedulers.detect(environ)
    survey = (lambda: None) if checked.excluded else partial(_survey, comm.rank, options, command, scheduler, environ)
    planner = (JoinPlanner if options.join else plan.Planner)(options, scheduler, environ, len(checked.bad))
    try:
        agreed = plan.agree_on_cluster(comm, place, survey, planner)
        assignment = agreed.assignment if isinstance(agreed, ClusterPlan) else agreed
        node = Node(assignment, assignment.node, options, early_start(assignment)) if assignment.node else None
        comm.settle()
        watch = Watch(comm, Signals())
        _prepare(comm, place, node)
    except RayhpcError as error:
        return _refuse(comm, console, error)
    comm.send(HEAD_RANK, imported)
    # Each rank imports only what it runs.
    if node is None or not isinstance(agreed, ClusterPlan):  # rank 0 has both
        from rayhpc.bootstrap.follow import Follower

        Follower(comm, assignment, node, watch).run()
        return 0
    from rayhpc.bootstrap.join import Joiner
    from rayhpc.bootstrap.lead import Leader
    from rayhpc.bootstrap.run_context import RunContext

    log = EventLog(Path(agreed.spec.run_dir))
    leader = Joiner if agreed.spec.joins else Leader
    return leader(RunContext(comm, options, agreed.argv, console, watch, log), agreed, node, checked.bad).run()


def _survey(
    rank: int, options: Options, command: Sequence[str], scheduler: Scheduler | None, environ: Mapping[str, str]
) -> RankResources:
    """What this rank contributes; raises RayhpcError for what it lacks, rank 0 also for a driver that cannot run."""
    argv = driver.resolve(command) if rank == HEAD_RANK and not options.hold else ()
    if options.metrics or (rank == HEAD_RANK and options.dashboard):
        resources.check_agent("--metrics" if options.metrics else "--dashboard")
    if rank == HEAD_RANK and options.metrics:
        metrics.check(environ)
    launch = launcher.launched(environ)
    found = resources.survey(rank, options, scheduler, launch.by if launch else "", environ)
    return replace(found, argv=tuple(argv))


def _prepare(comm: Comm, place: str, node: Node | None) -> None:
    """Make every rank's private directory, or none: the last thing that can be refused before Ray starts."""
    try:
        ranks.agree(comm, place, node.prepare if node else lambda: None, lambda all_of_them: all_of_them, 60.0)
    except RayhpcError:
        if node is not None:
            node.discard()
        raise


def _refuse(comm: Comm, console: Console, error: RayhpcError) -> int:
    """Print the fault once and end all ranks with its code; no node has been started."""
    console.plain(error.fault.text())
    if isinstance(error, Unreachable):
        comm.abort(int(error.fault.code))
    comm.leave()
    return int(error.fault.code) if comm.rank == HEAD_RANK else 0
