"""Stage 2: all ranks agree on one cluster, or fail with one sentence."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rayhpc import schedulers, units
from rayhpc.bootstrap import share
from rayhpc.errors import configuration, counted, shortened
from rayhpc.host import network, tls
from rayhpc.model import Allocation, Assignment, Certificate, ClusterSpec, Probe, Reach
from rayhpc.options import Options
from rayhpc.ranks import launcher
from rayhpc.ranks.comm import Comm, agree
from rayhpc.records import run_directory
from rayhpc.schedulers import commands
from rayhpc.schedulers.facts import Scheduler


def agree_on_cluster(comm: Comm, place: str, survey: Callable[[], Allocation], planner: Planner) -> Assignment:
    """Every rank tells what it has and is told what to do; a fault on any rank is raised on all."""
    patience = 60.0 + 0.1 * comm.size
    try:
        probe = agree(comm, place, survey, planner.propose, patience)
        return agree(comm, place, lambda: network.reach(comm.rank, place, probe), planner.settle, patience)
    finally:
        planner.close()


class Planner:
    """Rank 0's part: from all allocations to the ClusterSpec. spec and warnings are there once it has settled."""

    def __init__(self, options: Options, scheduler: Scheduler | None, environ: Mapping[str, str]) -> None:
        self.spec: ClusterSpec | None = None
        self.warnings: list[str] = []
        self._options = options
        self._scheduler = scheduler
        self._environ = environ
        self._allocations: Sequence[Allocation] = ()
        self._listener: network.Listener | None = None

    def propose(self, allocations: Sequence[Allocation]) -> list[Probe]:
        """Check what was found, open the run and a listener; where each worker shall try to reach the head."""
        check_versions(allocations)
        said = self._describe_job()
        allocations = share.with_granted_cpus(allocations, self._granted_cpus(said))
        self._allocations = allocations
        head = allocations[0]
        now = time.time()
        run_id = new_run_id(now)
        nodes = share.divide(allocations, self._options, run_id)
        self.warnings = share.warnings(allocations, nodes, self._options) + self._unused_hosts(allocations)
        check_min_nodes(self._options.min_nodes, len(nodes))
        if not self._options.login_node:
            check_login_node(head.host, self._environ)
        self.spec = ClusterSpec(
            run_id=run_id,
            run_dir="",
            port=network.free_port(head.host, self._options.port),
            dashboard_port=0,
            ranks=len(allocations),
            hosts=len({entry.host_id for entry in allocations}),
            versions=head.versions,
            scheduler=self._scheduler.name if self._scheduler else "",
            job_id=self._environ.get(self._scheduler.job_id, "") if self._scheduler else "",
            deadline=self._deadline(head.host, now, said),
            nodes=nodes,
        )
        self._listener = network.Listener()
        return [Probe(tuple(entry.address for entry in head.interfaces), self._listener.port)] * len(allocations)

    def settle(self, reaches: Sequence[Reach]) -> list[Assignment]:
        """Choose the network that all share and write the record; what each rank is told."""
        assert self.spec is not None
        head = self._allocations[0]
        address = choose_address(head.host, [entry.address for entry in head.interfaces], reaches)
        spec = self.spec
        own = {entry.rank: entry.own[address] for entry in reaches}
        certificate = tls.certificate({address, *own.values()}) if self._options.tls else None
        nodes = (replace(node, address=own[node.rank] if node.rank else address) for node in spec.nodes)
        taken = frozenset({spec.port})
        self.spec = replace(
            spec,
            nodes=tuple(nodes),
            dashboard_port=network.free_port(head.host, taken=taken) if self._options.dashboard else 0,
            run_dir=str(run_directory.create(self._options.run_dir, spec.run_id)),
        )
        return assignments(self.spec, self._allocations, secrets.token_hex(32), certificate)

    def _describe_job(self) -> commands.Said | None:
        """What the scheduler says of the job where it alone can tell each host's CPUs; None where it is not asked."""
        if self._scheduler is None or self._scheduler.parse_cpus is None:
            return None
        return commands.describe(self._scheduler, self._environ)

    def _granted_cpus(self, said: commands.Said | None) -> Mapping[str, int]:
        if said is None or self._scheduler is None or self._scheduler.parse_cpus is None:
            return {}
        return self._scheduler.parse_cpus(said[0])

    def _unused_hosts(self, allocations: Sequence[Allocation]) -> list[str]:
        """A warning where the job has more hosts than ranks were started on."""
        granted = self._scheduler.hosts(self._environ) if self._scheduler else []
        used = {entry.host for entry in allocations}
        unused = [host for host in granted if host.partition(".")[0] not in used]
        surplus = len(granted) - len({entry.host_id for entry in allocations})
        if surplus <= 0 or not unused:
            return []
        many = len(granted)
        return [
            f"{surplus} of the job's {many} hosts are not used: {shortened(unused[:surplus])}; "
            f"start a rank on each of them: {launcher.on_hosts(many, self._environ)}"
        ]

    def _deadline(self, host: str, now: float, said: commands.Said | None) -> float:
        """End of the job in Unix seconds, 0 if nobody knows; raises RayhpcError where it is over."""
        end, source = self._end_of_job(now, said)
        check_time_left(end, now, f"{source}; clock of {host}")
        if end and end - now <= self._options.grace and not self._options.hold:
            grace = f"--grace {self._options.grace:g} s"
            self.warnings += [f"the job ends in {end - now:.0f} s, within {grace}: the driver is signalled at once"]
        return end

    def _end_of_job(self, now: float, said: commands.Said | None) -> tuple[float, str]:
        """The end, 0 if nobody knows, and whose word it is: the user's, else the scheduler's."""
        if self._options.walltime:
            return now + units.seconds(self._options.walltime), "--walltime"
        if self._options.deadline or self._scheduler is None:
            return self._options.deadline, "--deadline"
        end, warning = commands.deadline(self._scheduler, self._environ, now, said)
        self.warnings += [warning] if warning else []
        return end or 0.0, self._scheduler.name

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()


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
    """Raises RayhpcError where the end of the job, 0 if nobody knows, is over; sources: whose words the times are."""
    if end and end <= now:
        times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) for at in (end, now)]
        raise configuration(
            f"the end of the job was {now - end:.0f} s ago",
            *(f"{time}  {source}" for time, source in zip(times, sources.split("; "), strict=True)),
            next_step="correct --walltime or --deadline; if the host's clock is wrong, tell the site",
        )


def check_versions(allocations: Sequence[Allocation]) -> None:
    """Raises RayhpcError naming the ranks whose Ray, Python or rayhpc is not rank 0's."""
    expected = allocations[0].versions
    odd = [entry for entry in allocations if entry.versions != expected]
    if not odd:
        return
    lines = [
        f"rank {entry.rank} on {entry.host}: Ray {entry.versions.ray}, Python {entry.versions.python}, "
        f"rayhpc {entry.versions.rayhpc}"
        for entry in (allocations[0], *odd[:8])
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


def new_run_id(now: float) -> str:
    """Sorts by time and is unique: 20261121-094408-1a2b3c4d."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(4)}"


def assignments(
    spec: ClusterSpec, allocations: Sequence[Allocation], token: str, certificate: Certificate | None = None
) -> list[Assignment]:
    """What each rank is told, in rank order."""
    nodes = {node.rank: node for node in spec.nodes}
    return [
        Assignment(
            run_id=spec.run_id,
            run_dir=spec.run_dir,
            dashboard_port=spec.dashboard_port,
            head_address=spec.head.address,
            port=spec.port,
            nodes=len(spec.nodes),
            ray=spec.versions.ray,
            node=nodes.get(entry.rank),
            token=token,
            certificate=certificate,
        )
        for entry in allocations
    ]
