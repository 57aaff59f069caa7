"""Which ranks' nodes are alive, lost or on their way back, and which are spares: what is new between two looks at the
node table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rayhpc.bootstrap.spares import share
from rayhpc.model import AliveNode, NodeSpec


class Roster:
    """The nodes of a run by rank. lost: ranks whose node is gone; limit: how often each may be started again.

    nodes: those that make the cluster now; waiting: its spares; coming: ranks of spares that are not alive yet, each
    with the rank whose place it takes; out: ranks whose place was taken.
    """

    def __init__(self, limit: int, nodes: Sequence[NodeSpec], spares: Sequence[NodeSpec] = ()) -> None:
        self.nodes = tuple(nodes)
        self.waiting = list(spares)
        self.coming: dict[int, int] = {}
        self.out: set[int] = set()
        self.lost: set[int] = set()
        self.limit = limit
        self._ids: dict[int, str] = {}
        self._restarts: Counter[int] = Counter()

    @property
    def seen(self) -> frozenset[int]:
        """Ranks whose nodes have been alive."""
        return frozenset(self._ids)

    @property
    def whole(self) -> int:
        """How many of the cluster's nodes are neither lost nor on their way."""
        return sum(node.rank not in self.lost and node.rank not in self.coming for node in self.nodes)

    def update(self, nodes: Iterable[AliveNode]) -> tuple[list[int], list[int]]:
        """From the living nodes: ranks whose node is no longer among them, and ranks that have a new one."""
        alive = {(node.rank, node.id) for node in nodes}
        by_rank = {rank: name for rank, name in alive if rank is not None and self._ids.get(rank) != name}
        back = sorted(rank for rank in by_rank if rank in self.lost - self.out and self._restarts[rank])
        self.lost -= set(back)
        self._ids |= {rank: name for rank, name in by_rank.items() if rank in back or rank not in self._ids}
        gone = sorted(rank for rank, name in self._ids.items() if (rank, name) not in alive and rank not in self.lost)
        return gone, back

    def restart(self, rank: int) -> int:
        """Count another start of a lost rank's node: 1 for the first, 0 if it has had them all."""
        if self._restarts[rank] >= self.limit:
            return 0
        self._restarts[rank] += 1
        self.lost.add(rank)
        return self._restarts[rank]

    def restarts(self, rank: int) -> int:
        """How often the rank's node was started again."""
        return self._restarts[rank]

    def replace(self, rank: int) -> NodeSpec | None:
        """The spare that takes a lost rank's place, if possible one with the same share; None where none is left."""
        lost = next((node for node in self.nodes if node.rank == rank), None)
        if lost is None or not self.waiting:
            return None
        spare = next((node for node in self.waiting if share(node) == share(lost)), self.waiting[0])
        self.waiting.remove(spare)
        self.nodes = tuple(spare if node is lost else node for node in self.nodes)
        self.coming[spare.rank] = self.coming.pop(rank, rank)
        self.lost.add(rank)
        self.out.add(rank)
        return spare

    def give_up(self, rank: int) -> bool:
        """True if this is a spare that waits, which is no longer one."""
        waiting = [node for node in self.waiting if node.rank != rank]
        found, self.waiting = len(waiting) < len(self.waiting), waiting
        if found:
            self.out.add(rank)
        return found

    def arrived(self) -> list[tuple[int, int]]:
        """Spares that are alive now, each with the rank whose place it has taken; each is named once."""
        found = [(rank, before) for rank, before in self.coming.items() if rank in self._ids]
        for rank, _ in found:
            del self.coming[rank]
        return found
