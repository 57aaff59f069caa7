"""Which ranks' nodes are alive, lost or on their way back: what is new between two looks at the node table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rayhpc.model import AliveNode


class Roster:
    """The nodes of a run by rank. lost: ranks whose node is gone; limit: how often each may be started again."""

    def __init__(self, limit: int) -> None:
        self.lost: set[int] = set()
        self.limit = limit
        self._ids: dict[int, str] = {}
        self._restarts: Counter[int] = Counter()

    @property
    def seen(self) -> frozenset[int]:
        """Ranks whose nodes have been alive."""
        return frozenset(self._ids)

    def update(self, nodes: Iterable[AliveNode]) -> tuple[list[int], list[int]]:
        """From the living nodes: ranks whose node is no longer among them, and ranks that have a new one."""
        alive = {(node.rank, node.id) for node in nodes}
        by_rank = {rank: name for rank, name in alive if rank is not None and self._ids.get(rank) != name}
        back = sorted(rank for rank in by_rank if rank in self.lost and self._restarts[rank])
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
