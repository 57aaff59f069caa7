"""All ranks of a job agree on joining the cluster of another run, or fail with one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap.plan import ClusterPlan, Planner, Proposal, assignments
from rayhpc.errors import configuration, shortened
from rayhpc.model import KUBERAY, Assignment, ClusterEntry, Probe, RankResources, Reach, Versions
from rayhpc.options import Options
from rayhpc.records import registry, run_directory
from rayhpc.schedulers import commands
from rayhpc.schedulers.facts import Scheduler


class JoinPlanner(Planner):
    """Rank 0's part: its own job is planned as any other, the cluster's address and token are the registry's."""

    def __init__(
        self, options: Options, scheduler: Scheduler | None, environ: Mapping[str, str], bad_hosts: int = 0
    ) -> None:
        super().__init__(options, scheduler, environ, bad_hosts)
        self._entry: ClusterEntry | None = None

    def _meeting(self, head: RankResources) -> tuple[int, Probe]:
        entry = self._entry = registry.find(self._options.join)
        check_joinable(entry)
        check_same_versions(entry, head.versions)
        host, _, port = entry.address.rpartition(":")
        return int(port), Probe((host.strip("[]"),), int(port))

    def _deadline(self, host: str, now: float, said: commands.Said | None) -> tuple[float, list[str]]:
        """As in any job; raises RayhpcError where the nodes would have to leave at once."""
        end, warnings = super()._deadline(host, now, said)
        if end and end - now <= self._options.grace:
            raise configuration(
                f"the job ends in {end - now:.0f} s, and its nodes leave --grace {self._options.grace:g} s before",
                next_step="ask for more time, or name a smaller --grace",
            )
        return end, warnings

    def settle(self, proposal: Proposal, reaches: Sequence[Reach]) -> list[ClusterPlan | Assignment]:
        """Make the run directory; the plan, and each other rank's assignment, with the cluster's token."""
        entry = self._entry
        if entry is None:
            raise TypeError("a cluster is proposed first")
        (head,) = proposal.probe.addresses
        check_reached(entry, reaches)
        addresses = {found.rank: found.own[head] for found in reaches}
        nodes = tuple(replace(node, address=addresses[node.rank]) for node in proposal.nodes)
        token = token_of(entry)
        spec = replace(self._spec(proposal, nodes, ()), joins=entry.address)
        dashboard = int(entry.dashboard.rpartition(":")[2]) if entry.dashboard else 0
        first, *others = [
            replace(each, joins=True, head_address=head, dashboard_port=dashboard, nodes=entry.nodes + len(nodes))
            for each in assignments(spec, proposal.found, token)
        ]
        return [ClusterPlan(spec, first, ("--join", entry.id), proposal.warnings), *others]


def check_joinable(entry: ClusterEntry) -> None:
    """Raises RayhpcError for a cluster that takes in no nodes of ours."""
    if entry.scheduler == KUBERAY:
        raise configuration(
            f"no job can bring nodes to {entry.id}: it is on Kubernetes, where KubeRay does",
            next_step=f"kubectl edit raycluster {entry.batch_job_id}: replicas of its worker group",
        )
    if entry.tls:
        raise configuration(
            f"no job can bring nodes to {entry.id}: its certificate (--tls) names its own hosts alone",
            next_step="start it without --tls, or with all hosts that it will need",
        )


def check_same_versions(entry: ClusterEntry, own: Versions) -> None:
    """Raises RayhpcError where the cluster's record names other versions of Ray or Python."""
    try:
        found = json.loads(Path(entry.run_dir, paths.SPEC).read_text())["versions"]
        theirs = Versions(**found)
    except (OSError, ValueError, KeyError, TypeError):
        return  # without its record Ray itself compares them
    if (theirs.ray, theirs.python) != (own.ray, own.python):
        raise configuration(
            f"this job has other versions than the cluster {entry.id}",
            f"the cluster: Ray {theirs.ray}, Python {theirs.python}",
            f"this job: Ray {own.ray}, Python {own.python}",
            next_step="submit it from the environment of the cluster, or set RAYHPC_VENV to that",
        )


def check_reached(entry: ClusterEntry, reaches: Sequence[Reach]) -> None:
    """Raises RayhpcError naming the ranks that do not reach the cluster's head."""
    lost = [found for found in reaches if not found.own]
    if lost:
        raise configuration(
            f"{shortened([found.place for found in lost])} cannot reach the cluster {entry.id} on {entry.host}",
            *(f"{found.place}: {'; '.join(found.refusals)}" for found in lost[:8]),
            next_step=f"see whether it is alive: rayhpc cluster show {entry.id}; if it is, the networks do not meet",
        )


def token_of(entry: ClusterEntry) -> str:
    """The cluster's token; raises RayhpcError where it cannot be read, or others can read it."""
    file = registry.token_file(entry)
    try:
        token = run_directory.read_private(file)
    except OSError as error:
        raise configuration(
            f"the token of the cluster {entry.id} cannot be used: {error.strerror}",
            str(file),
            next_step="it must be yours alone, mode 0600, on a file system that these hosts see",
        ) from error
    if token is None:
        raise configuration(f"there is no token any more: {entry.id} has just ended", next_step="rayhpc cluster list")
    return token
