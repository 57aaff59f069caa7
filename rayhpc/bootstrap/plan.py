"""Stage 2: all ranks agree on one cluster, or fail with one sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from rayhpc import schedulers, units
from rayhpc.bootstrap import share, spares
from rayhpc.errors import configuration, counted, shortened
from rayhpc.host import network, tls
from rayhpc.model import Assignment, Certificate, ClusterSpec, NodeSpec, Probe, RankResources, Reach
from rayhpc.options import Options
from rayhpc.ranks import launcher
from rayhpc.ranks.comm import Comm, agree, contribute
from rayhpc.records import run_directory
from rayhpc.records.ids import new_id
from rayhpc.records.token import new_token
from rayhpc.schedulers import commands
from rayhpc.schedulers.facts import Scheduler, own_id

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Proposal:
    """What rank 0 decides before the network is chosen. The nodes' addresses are those of the first interfaces."""

    run_id: str
    found: tuple[RankResources, ...]
    nodes: tuple[NodeSpec, ...]
    spares: tuple[NodeSpec, ...]
    port: int
    deadline: float
    probe: Probe
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ClusterPlan:
    """What rank 0 knows of the cluster that all have agreed on. argv: the driver, as it is executed."""

    spec: ClusterSpec
    assignment: Assignment
    argv: tuple[str, ...]
    warnings: tuple[str, ...]


def agree_on_cluster(
    comm: Comm, place: str, survey: Callable[[], RankResources | None], planner: Planner
) -> ClusterPlan | Assignment:
    """Every rank contributes what it has, and gets its assignment, rank 0 with the plan; a fault is raised on all.

    A rank that contributes None takes no part, and gets an assignment without a node.
    """
    patience = 60.0 + 0.1 * comm.size
    try:
        first = agree(comm, place, survey, partial(_of_those_present, planner.propose), patience)
        probe = first.probe if isinstance(first, Proposal) else first
        reach = partial(network.reach, comm.rank, place, probe) if probe else lambda: None
        if isinstance(first, Proposal):
            settle = partial(_of_those_present, partial(planner.settle, first))
            made: ClusterPlan | Assignment = agree(comm, place, reach, partial(_with_the_others, settle), patience)
            return made
        return contribute(comm, place, reach, Assignment, patience)
    finally:
        planner.close()


def _of_those_present(combine: Callable[[list[T]], list[S]], found: Sequence[T | None]) -> list[S | None]:
    """What combine() answers to those that have contributed; None to the others."""
    answers = iter(combine([entry for entry in found if entry is not None]))
    return [None if entry is None else next(answers) for entry in found]


def _with_the_others(
    settle: Callable[[Sequence[Reach | None]], list[ClusterPlan | Assignment | None]], reaches: Sequence[Reach | None]
) -> list[ClusterPlan | Assignment]:
    """The plan and the assignments; that of a rank that takes no part is rank 0's without the node."""
    answers = settle(reaches)
    plan = answers[0]
    if not isinstance(plan, ClusterPlan):
        raise TypeError("rank 0 takes part")
    nothing = replace(plan.assignment, node=None)
    return [nothing if answer is None else answer for answer in answers]


class Planner:
    """Rank 0's part: from the resources of all ranks to a proposal, and from what all reach to the plan."""

    def __init__(
        self, options: Options, scheduler: Scheduler | None, environ: Mapping[str, str], bad_hosts: int = 0
    ) -> None:
        """bad_hosts: so many hosts take no part."""
        self._options = options
        self._scheduler = scheduler
        self._bad_hosts = bad_hosts
        self._environ = environ
        self._listener: network.Listener | None = None

    def propose(self, found: Sequence[RankResources]) -> list[Proposal | Probe]:
        """Check what was found, and listen; for rank 0 the proposal, for each other rank what it shall try to reach."""
        check_versions(found)
        said = self._describe_job()
        found = share.with_granted_cpus(found, self._granted_cpus(said))
        head, now = found[0], time.time()
        run_id = new_id(now)
        nodes, waiting = spares.set_aside(found, share.divide(found, self._options, run_id), self._spares())
        check_min_nodes(self._options.min_nodes, len(nodes))
        if not self._options.login_node:
            check_login_node(head.host, self._environ)
        port, probe = self._meeting(head)
        deadline, about_time = self._deadline(head.host, now, said)
        about_shares = (*share.warnings(found, (*nodes, *waiting), self._options), *spares.warnings(nodes, waiting))
        warnings = (*about_shares, *self._unused_hosts(found), *about_time)
        proposal = Proposal(run_id, tuple(found), nodes, waiting, port, deadline, probe, warnings)
        return [proposal, *[probe] * (len(found) - 1)]

    def _spares(self) -> int:
        """How many hosts are left to wait once the bad ones are left out."""
        return max(0, self._options.spares - self._bad_hosts)

    def _meeting(self, head: RankResources) -> tuple[int, Probe]:
        """The port of the GCS, and what each rank shall try to reach."""
        port = network.free_port(head.host, self._options.port)
        self._listener = network.Listener()
        return port, Probe(tuple(entry.address for entry in head.interfaces), self._listener.port)

    def settle(self, proposal: Proposal, reaches: Sequence[Reach]) -> list[ClusterPlan | Assignment]:
        """Choose the network that all share and make the run directory; the plan, and each other rank's assignment."""
        head = proposal.found[0]
        address = choose_address(head.host, [entry.address for entry in head.interfaces], reaches)
        addresses = {**{entry.rank: entry.own[address] for entry in reaches}, head.rank: address}
        certificate = tls.certificate(set(addresses.values())) if self._options.tls else None
        nodes, waiting = (
            tuple(replace(node, address=addresses[node.rank]) for node in several)
            for several in (proposal.nodes, proposal.spares)
        )
        spec = self._spec(proposal, nodes, waiting)
        first, *others = assignments(spec, proposal.found, new_token(), certificate, self._options.metrics)
        return [ClusterPlan(spec, first, head.argv, proposal.warnings), *others]

    def _spec(
        self, proposal: Proposal, nodes: tuple[NodeSpec, ...], waiting: tuple[NodeSpec, ...]
    ) -> ClusterSpec:
        """The cluster, with a run directory of its own; raises RayhpcError where that cannot be made."""
        head, taken = proposal.found[0], frozenset({proposal.port})
        return ClusterSpec(
            run_id=proposal.run_id,
            port=proposal.port,
            dashboard_port=network.free_port(head.host, taken=taken) if self._options.dashboard else 0,
            ranks=len(proposal.found),
            hosts=len({entry.host_id for entry in proposal.found}),
            versions=head.versions,
            scheduler=self._scheduler.name if self._scheduler else "",
            batch_job_id=own_id(self._scheduler, self._environ) if self._scheduler else "",
            deadline=proposal.deadline,
            nodes=nodes,
            spares=waiting,
            run_dir=str(run_directory.create(self._options.run_dir, proposal.run_id)),
        )

    def _describe_job(self) -> commands.Said | None:
        """What the scheduler says of the job where it alone can tell each host's CPUs; None where it is not asked."""
        if self._scheduler is None or self._scheduler.parse_cpus is None:
            return None
        return commands.describe(self._scheduler, self._environ)

    def _granted_cpus(self, said: commands.Said | None) -> Mapping[str, int]:
        if said is None or self._scheduler is None or self._scheduler.parse_cpus is None:
            return {}
        return self._scheduler.parse_cpus(said[0])

    def _unused_hosts(self, found: Sequence[RankResources]) -> list[str]:
        """A warning where the job has more hosts than ranks were started on."""
        granted = self._scheduler.hosts(self._environ) if self._scheduler else []
        left_out = self._options.check == "exclude"  # has named them
        unused = [] if left_out else unused_hosts(granted, {entry.host_id: entry.host for entry in found})
        many = len(granted)
        return [
            f"{len(unused)} of the job's {many} hosts are not used: {shortened(unused)}; "
            f"start a rank on each of them: {launcher.on_hosts(many, self._environ)}"
        ] if unused else []

    def _deadline(self, host: str, now: float, said: commands.Said | None) -> tuple[float, list[str]]:
        """End of the job in Unix seconds, 0 if nobody knows, and warnings; raises RayhpcError where it is over."""
        end, source, warnings = self._end_of_job(now, said)
        check_time_left(end, now, f"{source}; clock of {host}")
        if end and end - now <= self._options.grace and not self._options.hold:
            grace = f"--grace {self._options.grace:g} s"
            warnings += [f"the job ends in {end - now:.0f} s, within {grace}: the driver is signalled at once"]
        return end, warnings

    def _end_of_job(self, now: float, said: commands.Said | None) -> tuple[float, str, list[str]]:
        """The end, 0 if nobody knows; its source, which is an option or the scheduler; and warnings."""
        if self._options.walltime:
            return now + units.seconds(self._options.walltime), "--walltime", []
        if self._options.deadline or self._scheduler is None:
            return self._options.deadline, "--deadline", []
        end, warning = commands.deadline(self._scheduler, self._environ, now, said)
        return end or 0.0, self._scheduler.name, [warning] if warning else []

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()


def unused_hosts(granted: Sequence[str], used: Mapping[str, str]) -> list[str]:
    """The job's hosts on which no rank was started; used: the names of the others by their identities."""
    names = set(used.values())
    unused = [host for host in granted if host.partition(".")[0] not in names]
    return unused[: max(0, len(granted) - len(used))]


def check_min_nodes(wanted: int, nodes: int) -> None:
    """Raises RayhpcError for more --min-nodes than there can be."""
    if wanted > nodes:
        raise configuration(
            f"--min-nodes {wanted}, but the cluster has {counted(nodes, 'node')}",
            next_step="ask for as many as can be spared; one rank is one node, with --one-per-host one host is",
        )


def check_login_node(host: str, environ: Mapping[str, str]) -> None:
    """Raises RayhpcError, naming the scheduler, on a host that only submits jobs: it is shared, and not for work."""
    for scheduler in schedulers.ALL:
        if scheduler.on_job_host not in environ and (answer := commands.is_no_job_host(scheduler, host)):
            raise configuration(
                f"{host} is a login node: {scheduler.name} runs no jobs on it",
                answer,
                next_step="rayhpc alloc submit; or ask for hosts first: salloc, qsub -I; or stay here: --login-node",
            )


def check_time_left(end: float, now: float, sources: str) -> None:
    """Raises RayhpcError where the end of the job, 0 if nobody knows, is over; sources: of both times."""
    if end and end <= now:
        times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) for at in (end, now)]
        raise configuration(
            f"the end of the job was {now - end:.0f} s ago",
            *(f"{time}  {source}" for time, source in zip(times, sources.split("; "), strict=True)),
            next_step="correct --walltime or --deadline; if the host's clock is wrong, tell the site",
        )


def check_versions(found: Sequence[RankResources]) -> None:
    """Raises RayhpcError naming the ranks whose Ray, Python or rayhpc is not rank 0's."""
    expected = found[0].versions
    odd = [entry for entry in found if entry.versions != expected]
    if not odd:
        return
    lines = [
        f"rank {entry.rank} on {entry.host}: Ray {entry.versions.ray}, Python {entry.versions.python}, "
        f"rayhpc {entry.versions.rayhpc}"
        for entry in (found[0], *odd[:8])
    ]
    raise configuration(
        f"versions differ on rank {shortened([str(entry.rank) for entry in odd])}",
        *lines,
        next_step="activate the same environment on every host (check the jobscript and ~/.bashrc)",
    )


def choose_address(head: str, candidates: Sequence[str], reaches: Sequence[Reach]) -> str:
    """The first of the head's addresses that every rank reached; raises RayhpcError naming the pairs that failed."""
    for address in candidates:
        if all(address in entry.own for entry in reaches):
            return address
    lost = [entry for entry in reaches if not entry.own] or list(reaches)
    pairs = [f"{entry.place} -> {head}  {'; '.join(entry.refusals)}" for entry in lost[:8]]
    raise configuration(
        f"{shortened([entry.place for entry in lost])} cannot reach the head {head}",
        *pairs,
        next_step="choose the network that connects them: --interface NAME, GLOB or CIDR",
    )


def assignments(
    spec: ClusterSpec,
    found: Sequence[RankResources],
    token: str,
    certificate: Certificate | None = None,
    metrics: bool = False,
) -> list[Assignment]:
    """Each rank's assignment, in rank order."""
    waiting = {node.rank for node in spec.spares}
    return [
        Assignment(
            run_id=spec.run_id,
            run_dir=spec.run_dir,
            dashboard_port=spec.dashboard_port,
            head_address=spec.head.address,
            nodes=len(spec.nodes),
            ray=spec.versions.ray,
            node=spec.node(entry.rank),
            token=token,
            certificate=certificate,
            metrics=metrics,
            spare=entry.rank in waiting,
        )
        for entry in found
    ]
