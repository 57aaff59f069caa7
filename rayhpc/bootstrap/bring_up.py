"""Stages 3 and 4 on rank 0: the head, the workers, and the verdict on what is alive. A head that ends early is started
again here, if its end says nothing about the next start (node.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap import readiness
from rayhpc.bootstrap.decision import named
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.bootstrap.supervise import Supervisor
from rayhpc.errors import counted
from rayhpc.host import network
from rayhpc.messages import Milestone, NodeEnded
from rayhpc.model import HEAD_RANK, AliveNode, ClusterSpec, NodeSpec, Outcome
from rayhpc.processes.children import Child
from rayhpc.records import run_directory

_TABLE_FAST = 0.02
_TABLE_SLOW = 1.0
# A row of the table costs 100 microseconds of the GCS's CPU time for each answer, 40 of `ray start`'s, 7 of rank 0's.
_TABLE_FAST_PER_NODE = 0.0005
_TABLE_SLOW_PER_NODE = 0.0025


def table_pauses(nodes: int) -> tuple[float, float]:
    """Seconds between two looks at the node table, while it fills and later: longer for more nodes than 40 and 400.

    Asking takes 0.3 of a core while the nodes join, and 0.06 while the driver runs, whatever their number.
    """
    return max(_TABLE_FAST, _TABLE_FAST_PER_NODE * nodes), max(_TABLE_SLOW, _TABLE_SLOW_PER_NODE * nodes)


class BringUp:
    """From the agreed spec to an accepted cluster. Each stage returns None to go on or the Outcome that ends the run.

    spec: what all agreed on, with the head's port as it is now.
    """

    def __init__(self, context: RunContext, spec: ClusterSpec, node: Node, supervisor: Supervisor) -> None:
        self.spec = spec
        self._context, self._node, self._supervisor = context, node, supervisor
        self._timeout = context.options.timeout or readiness.default_timeout(len(spec.nodes))
        self._end = time.monotonic() + self._timeout
        self._fast, self._slow = table_pauses(len(spec.nodes))

    @property
    def alive(self) -> Sequence[AliveNode]:
        """The nodes that are alive, as the node table said last; without one whose place a spare has taken."""
        out = self._supervisor.roster.out
        return [node for node in self._supervisor.table.nodes or () if node.rank not in out]

    def launch_head(self) -> Outcome | None:
        """Start the head's node, and ask its node table from now on."""
        self._start_head()
        self._supervisor.table.start()
        return None

    def await_head(self) -> Outcome | None:
        """Wait until the head is alive in its own node table."""
        head = self.spec.head
        outcome = self._await(lambda: [head], "head")
        if outcome is None and readiness.missing(self.alive, [head]):
            outcome = self._verdict()
        if outcome is None:
            text = f"rank 0 has joined {self.spec.joins}" if self.spec.joins else f"head {self.spec.address} up"
            self._context.milestone("head", head.host, text)
        return outcome

    def start_workers(self) -> Outcome | None:
        """Start all workers, as soon as the head can take them in, and wait for them, then for spares in the place of
        those that are late."""
        self._supervisor.table.every = self._fast
        self._supervisor.start_workers(self.spec.address, self._timeout)
        outcome = self._await(self._wanted, "nodes")
        while outcome is None and self._supervisor.replace_late(readiness.missing(self.alive, self._wanted())):
            self._end = time.monotonic() + self._timeout
            outcome = self._await(self._wanted, "nodes")
        return outcome

    def _wanted(self) -> Sequence[NodeSpec]:
        return self._supervisor.roster.nodes

    def accept(self) -> Outcome | None:
        """Decide whether what is alive is enough; a node that is lost after this is the supervisor's business."""
        outcome = self._verdict()
        if outcome is not None:
            return outcome
        self._supervisor.accept()
        count = f"{len(self.alive)}/{len(self.spec.nodes)} Ray nodes"
        waiting = len(self._supervisor.roster.waiting)
        spares = f"; {counted(waiting, 'spare rank')} {'waits' if waiting == 1 else 'wait'}" if waiting else ""
        self._context.milestone("up", self.spec.head.host, f"{count}, {readiness.totals(self.alive)}{spares}")
        self._supervisor.table.every = self._slow
        self._context.watch.slow_down()
        return None

    def _start_head(self) -> None:
        self._context.log.write("start", HEAD_RANK, self.spec.head.host)
        self._context.watch.add(self._node.start(self.spec.port, self.spec.joins), self._head_ended)

    def _head_ended(self, child: Child) -> NodeEnded | Milestone:
        """The event of the head's end. A head that was alive once is not started again: its GCS has the cluster."""
        if HEAD_RANK in self._supervisor.roster.seen:
            return self._node.ended(child)
        return self._node.ended_or_started_again(child, self._start_head_again)

    def _start_head_again(self) -> None:
        """Start the head, if possible on another port, which the record and the node table's address get."""
        if not self.spec.joins:
            self.spec = replace(self.spec, port=network.free_port(self.spec.head.host, self._context.options.port))
        run_directory.write_json(Path(self.spec.run_dir, paths.SPEC), self.spec)
        self._supervisor.table.move(self.spec.address)
        self._start_head()

    def _await(self, wanted: Callable[[], Sequence[NodeSpec]], what: str) -> Outcome | None:
        supervisor = self._supervisor
        with self._context.console.bar(what, len(wanted())) as bar:
            return readiness.wait_for_nodes(
                supervisor.table, wanted, supervisor.roster.lost, self._end, supervisor.poll, bar
            )

    def _verdict(self) -> Outcome | None:
        options, console = self._context.options, self._context.console
        spec = replace(self.spec, nodes=self._supervisor.roster.nodes)
        outcome = readiness.verdict(self._supervisor.table, spec, options, console, self._timeout)
        for node in readiness.missing(self.alive, spec.nodes):
            if node.rank != HEAD_RANK and node.rank not in self._supervisor.roster.lost:
                self._supervisor.call_bad(node.host, f"its Ray node was not alive after {self._timeout:.0f} s")
        if outcome is None or outcome.fault is None or HEAD_RANK in {node.rank for node in self.alive}:
            return outcome
        return Outcome.of(named(replace(outcome.fault, evidence=(*self._node.evidence(), *outcome.fault.evidence))))
