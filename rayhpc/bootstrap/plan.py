"""Stage 2: all ranks agree on one cluster, or fail with one sentence."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rayhpc import commands, net, records, share, units
from rayhpc.comm import Comm, agree
from rayhpc.errors import configuration, shortened
from rayhpc.model import Allocation, Assignment, ClusterSpec, Options, Probe, Reach
from rayhpc.schedulers.facts import Scheduler


def agree_on_cluster(comm: Comm, place: str, survey: Callable[[], Allocation], planner: Planner) -> Assignment:
    """Every rank tells what it has and is told what to do; a fault on any rank is raised on all."""
    patience = 60.0 + 0.1 * comm.size
    try:
        probe = agree(comm, place, survey, planner.propose, patience)
        return agree(comm, place, lambda: net.reach(comm.rank, place, probe), planner.settle, patience)
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
        self._listener: net.Listener | None = None

    def propose(self, allocations: Sequence[Allocation]) -> list[Probe]:
        """Check what was found, open the run and a listener; where each worker shall try to reach the head."""
        check_versions(allocations)
        self._allocations = allocations
        head = allocations[0]
        self.warnings = share.warnings(allocations, self._options)
        run_id = new_run_id(time.time())
        self.spec = ClusterSpec(
            run_id=run_id,
            run_dir="",
            port=net.free_port(head.host, self._options.port),
            dashboard_port=0,
            ranks=len(allocations),
            hosts=len({entry.host_id for entry in allocations}),
            versions=head.versions,
            scheduler=self._scheduler.name if self._scheduler else "",
            job_id=self._environ.get(self._scheduler.job_id, "") if self._scheduler else "",
            deadline=self._deadline(time.time()),
            nodes=share.divide(allocations, self._options, run_id),
        )
        self._listener = net.Listener()
        return [Probe(tuple(entry.address for entry in head.interfaces), self._listener.port)] * len(allocations)

    def settle(self, reaches: Sequence[Reach]) -> list[Assignment]:
        """Choose the network that all share and write the record; what each rank is told."""
        assert self.spec is not None
        head = self._allocations[0]
        address = choose_address(head.host, [entry.address for entry in head.interfaces], reaches)
        spec = self.spec
        own = {entry.rank: entry.own[address] for entry in reaches}
        nodes = (replace(node, address=own[node.rank] if node.rank else address) for node in spec.nodes)
        taken = frozenset({spec.port})
        self.spec = replace(
            spec,
            nodes=tuple(nodes),
            dashboard_port=net.free_port(head.host, taken=taken) if self._options.dashboard else 0,
            run_dir=str(records.create(self._options.run_dir, spec.run_id)),
        )
        return assignments(self.spec, self._allocations, secrets.token_hex(32))

    def _deadline(self, now: float) -> float:
        """End of the job in Unix seconds: the user's word, else the scheduler's; 0 if nobody knows."""
        if self._options.deadline or self._options.walltime:
            return self._options.deadline or now + units.seconds(self._options.walltime)
        if self._scheduler is None:
            return 0.0
        end, warning = commands.deadline(self._scheduler, self._environ, now)
        self.warnings += [warning] if warning else []
        return end or 0.0

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()


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


def assignments(spec: ClusterSpec, allocations: Sequence[Allocation], token: str) -> list[Assignment]:
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
        )
        for entry in allocations
    ]
