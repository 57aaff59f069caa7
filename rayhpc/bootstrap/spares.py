"""Which hosts wait as spares: the last ones of the launch, each with all its ranks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rayhpc.errors import configuration, counted, shortened
from rayhpc.model import NodeSpec, RankResources

Nodes = tuple[NodeSpec, ...]


def set_aside(found: Sequence[RankResources], nodes: Nodes, spares: int) -> tuple[Nodes, Nodes]:
    """The nodes that shall start, and those on so many hosts that wait; raises RayhpcError where that makes no sense.

    Rank 0's host is never one of them.
    """
    host_of = {entry.rank: entry.host_id for entry in found}
    hosts: dict[str, list[NodeSpec]] = {}
    for node in nodes:
        hosts.setdefault(host_of[node.rank], []).append(node)
    if spares >= len(hosts):
        raise configuration(
            f"--spares {spares}, but there {'is' if len(hosts) == 1 else 'are'} {counted(len(hosts), 'host')}",
            next_step="a spare is a host of its own, and rank 0's is none: ask the scheduler for K hosts more",
        )
    order = list(hosts.values())
    starting, waiting = order[: len(order) - spares], order[len(order) - spares :]
    most = max(len(host) for host in starting)
    if short := [host for host in waiting if len(host) < most]:
        raise configuration(
            f"a spare has fewer ranks than the host whose place it may take: {shortened(_sizes(short))}",
            f"most ranks on another host: {most}",
            next_step="start equally many ranks on each host; the last hosts are the spares",
        )
    return _in_order(starting), _in_order(waiting)


def _sizes(hosts: Sequence[Sequence[NodeSpec]]) -> list[str]:
    return [f"{host[0].host} has {counted(len(host), 'rank')}" for host in hosts]


def _in_order(hosts: Sequence[Sequence[NodeSpec]]) -> Nodes:
    return tuple(sorted((node for host in hosts for node in host), key=lambda node: node.rank))


def warnings(nodes: Nodes, spares: Nodes) -> list[str]:
    """A warning where a spare's share is no other node's: what is placed by CPUs or GPUs may not fit there."""
    known = {share(node) for node in nodes}
    odd = [f"{node.host} ({words(node)})" for node in spares if share(node) not in known]
    expected = f"the others have {words(nodes[-1])}"
    return [f"a spare has another share than the nodes: {shortened(odd)}; {expected}"] if odd else []


def share(node: NodeSpec) -> tuple[int, int]:
    """CPUs and GPUs of a node."""
    return node.cpus, len(node.gpus.ids)


def words(node: NodeSpec) -> str:
    """The same, for messages."""
    return f"{counted(node.cpus, 'CPU')}, {counted(len(node.gpus.ids), 'GPU')}"
