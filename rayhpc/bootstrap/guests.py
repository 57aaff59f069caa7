"""Nodes that other jobs bring into this run's cluster and take away again, as the node table shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rayhpc.bootstrap.run_context import RunContext
from rayhpc.errors import counted
from rayhpc.model import HEAD_RANK, AliveNode

# What the registry keeps; events.jsonl has all.
_KEPT = 64


class Guests:
    """Who is here, who was. tell: gets the living nodes and a line of each guest whenever one has come or left."""

    def __init__(self, context: RunContext, host: str) -> None:
        self.tell: Callable[[Sequence[AliveNode], tuple[str, ...]], None] = lambda _, __: None
        self._context, self._host = context, host
        self._here: dict[str, AliveNode] = {}
        self._lines: dict[str, str] = {}

    def look(self, nodes: Sequence[AliveNode]) -> None:
        """Note in the record who has come and who has left since the last look."""
        now = {node.id: node for node in nodes if node.guest}
        came = [node for node in now.values() if node.id not in self._here]
        left = [node for node in self._here.values() if node.id not in now]
        self._here = now
        at = time.strftime("%H:%M:%S")
        for node in came:
            self._lines[node.id] = f"{node.guest} at {node.address}, {node.cpus:g} CPUs, {node.gpus:g} GPUs: since {at}"
            self._note("joined", node)
        for node in left:
            self._lines[node.id] += f" until {at}"
            self._note("left", node)
        if came or left:
            news = [f"{counted(len(some), 'node')} {verb}" for some, verb in ((came, "joined"), (left, "left")) if some]
            self._context.console.line(f"{', '.join(news)}: {counted(len(nodes), 'Ray node')}")
            self.tell(nodes, tuple(self._lines.values())[-_KEPT:])

    def _note(self, stage: str, node: AliveNode) -> None:
        size = {"cpus": node.cpus, "gpus": node.gpus}
        self._context.log.write(stage, HEAD_RANK, self._host, node=node.guest, address=node.address, **size)
