"""The story of a run: environment, agreement, cluster, driver, the first event that decides, and all given back."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from rayhpc import schedulers
from rayhpc.bootstrap import driver, plan, resources
from rayhpc.bootstrap.node import Node
from rayhpc.errors import RayhpcError
from rayhpc.host import gpu_variables, this_host
from rayhpc.log import Console
from rayhpc.messages import Milestone
from rayhpc.model import HEAD_RANK, Allocation, Assignment
from rayhpc.options import Options
from rayhpc.processes import environment
from rayhpc.processes.ray_start import RayStart
from rayhpc.processes.signals import Signals
from rayhpc.ranks import comm as ranks
from rayhpc.ranks import launcher
from rayhpc.ranks.comm import Comm, Unreachable


def bootstrap(
    options: Options, command: Sequence[str], comm: Comm, console: Console, begun: RayStart | None = None
) -> int:
    """Turn this allocation into a Ray cluster, run the command on it, give everything back; the job's exit code.

    begun: a `ray start` that imports Ray already. Never raises for what a user can meet: a fault on any rank is told
    once, by rank 0, and is the exit code.
    """
    environ = os.environ
    environ.update(gpu_variables.for_ray(environ))
    place = f"rank {comm.rank} on {this_host.name()}"
    imported = Milestone(comm.rank, this_host.name(), "imported", time.time(), since=this_host.started_at())
    launch = launcher.launched(environ)
    scheduler = schedulers.detect(environ)
    planner = plan.Planner(options, scheduler, environ)
    argv: list[str] = []

    def survey() -> Allocation:
        if comm.rank == HEAD_RANK and not options.hold:
            argv.extend(driver.resolve(command))
        if comm.rank == HEAD_RANK and options.dashboard:
            resources.check_dashboard()
        return resources.survey(comm.rank, options, scheduler, launch.by if launch else "", environ)

    try:
        own = plan.agree_on_cluster(comm, place, survey, planner)
        node = Node(own, own.node, options, _fitting(begun, own)) if own.node else None
        comm.settle()
        signals = Signals()
        _prepare(comm, place, node)
    except RayhpcError as error:
        return _refuse(comm, console, error)
    comm.send(HEAD_RANK, imported)
    # Each rank imports its own part of the story.
    if comm.rank != HEAD_RANK:
        from rayhpc.bootstrap.follow import Follower

        Follower(comm, own, node, signals).run()
        return 0
    from rayhpc.bootstrap.lead import Leader

    assert planner.spec is not None and node is not None
    return Leader(comm, own, planner.spec, node, options, argv, console, signals).run(planner.warnings)


def _fitting(begun: RayStart | None, own: Assignment) -> RayStart | None:
    """The `ray start` that has begun, unless Ray had to know more when it was imported; then it is ended.

    Ray reads then how long it waits for the GCS of a large cluster, and its certificate.
    """
    if begun is None or (own.certificate is None and own.nodes <= environment.TIGHT_HEALTH_NODES):
        return begun
    begun.end()
    return None


def _prepare(comm: Comm, place: str, node: Node | None) -> None:
    """Make every rank's private directory, or none: the last thing that can be refused before Ray starts."""
    try:
        ranks.agree(comm, place, node.prepare if node else lambda: None, lambda all_of_them: all_of_them, 60.0)
    except RayhpcError:
        if node is not None:
            node.discard()
        raise


def _refuse(comm: Comm, console: Console, error: RayhpcError) -> int:
    """Tell the fault once and end all ranks with its code; no node has been started."""
    console.plain(error.fault.text())
    if isinstance(error, Unreachable):
        comm.abort(int(error.fault.code))
    comm.leave()
    return int(error.fault.code) if comm.rank == HEAD_RANK else 0
