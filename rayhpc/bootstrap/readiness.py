"""Stage 4: every node alive, or the missing ones named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set

from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.errors import ExitCode, Fault, counted, shortened
from rayhpc.log import Bar, Console
from rayhpc.model import AliveNode, ClusterSpec, NodeSpec, Outcome
from rayhpc.options import Options
from rayhpc.paths import rank_log
from rayhpc.records.run_directory import last_lines

Poll = Callable[[], Outcome | None]


def default_timeout(nodes: int) -> float:
    """Seconds until all must be alive: two minutes, for imports from a slow file system, and more for many nodes."""
    return 120.0 + 0.5 * nodes


def wait_for_nodes(
    table: NodeTable, wanted: Callable[[], Sequence[NodeSpec]], lost: Set[int], end: float, poll: Poll, bar: Bar
) -> Outcome | None:
    """None when the wanted nodes are alive or `end` (monotonic) is over; the outcome that came before.

    lost: ranks that need not be waited for; poll() adds to it, and may change what wanted() says.
    """
    while {node.rank for node in missing(table.nodes, wanted())} - lost and time.monotonic() < end:
        outcome = poll()
        if outcome is not None:
            return outcome
        bar.show(len(wanted()) - len(missing(table.nodes, wanted())))
    return None


def missing(alive: Sequence[AliveNode] | None, wanted: Sequence[NodeSpec]) -> list[NodeSpec]:
    """The wanted nodes that are not alive."""
    ranks = {node.rank for node in alive or ()}
    return [node for node in wanted if node.rank not in ranks]


def verdict(table: NodeTable, spec: ClusterSpec, options: Options, console: Console, seconds: float) -> Outcome | None:
    """None if the cluster may be used: all of it, or --min-nodes of it, with a warning; else the fault."""
    lacking = missing(table.nodes, spec.nodes)
    alive = len(spec.nodes) - len(lacking)
    wrong = _check_totals(table.nodes or (), spec)
    if not lacking or wrong:
        return wrong
    names = shortened([f"{node.host} (rank {node.rank})" for node in lacking])
    if options.min_nodes and alive >= options.min_nodes:
        console.line(f"WARNING: going on with {alive} of {len(spec.nodes)} Ray nodes; missing: {names}")
        return None
    if spec.head in lacking:  # the others start after it
        lacking, names = [spec.head], spec.head.place
    evidence = [
        f"{node.host}: {line}"
        for node in lacking[:3]
        for line in last_lines(rank_log(spec.run_dir, node.rank), 3) or ("nothing in its log yet",)
    ]
    if table.last_error:
        evidence.append(f"node table: {table.last_error}")
    return Outcome.of(
        Fault(
            f"{_which(lacking, spec)} not alive after {seconds:.0f} s: {names}",
            ExitCode.NOT_READY,
            evidence=tuple(evidence),
            next_step=f"read {spec.run_dir}/rank-{lacking[0].rank}.log; raise --timeout, or go on without: --min-nodes",
        )
    )


def _which(lacking: Sequence[NodeSpec], spec: ClusterSpec) -> str:
    return "the head" if spec.head in lacking else f"{len(lacking)} of {counted(len(spec.nodes), 'node')}"


def _check_totals(alive: Sequence[AliveNode], spec: ClusterSpec) -> Outcome | None:
    """The fault of nodes that registered with other resources than they were given."""
    by_rank = {node.rank: node for node in alive}
    wrong = [
        f"{node.place}: {by_rank[node.rank].cpus:g} CPUs, {by_rank[node.rank].gpus:g} GPUs; "
        f"expected {node.cpus} and {len(node.gpus.ids)}"
        for node in spec.nodes
        if node.rank in by_rank
        and (by_rank[node.rank].cpus, by_rank[node.rank].gpus) != (node.cpus, len(node.gpus.ids))
    ]
    if not wrong:
        return None
    return Outcome.of(
        Fault(
            f"{len(wrong)} nodes have other resources than they were given",
            ExitCode.NOT_READY,
            evidence=tuple(wrong[:8]),
            next_step="check --ray-arg for --num-cpus or --num-gpus; use rayhpc's own options instead",
        )
    )


def totals(alive: Sequence[AliveNode]) -> str:
    """'4 CPUs, 2 GPUs' of the nodes alive."""
    return f"{sum(node.cpus for node in alive):g} CPUs, {sum(node.gpus for node in alive):g} GPUs"
