"""Heartbeats between rank 0 and the others: which rank sent something when, and which is missed."""

from __future__ import annotations

import time

from rayhpc.processes.environment import TIGHT_HEALTH_NODES

# A rank sends a heartbeat every so many seconds per 64 nodes, and is missed after six of them.
_BEAT_SECONDS = 2.0
_MISSED_BEATS = 6
_QUIET_BEATS = 3


class Heartbeats:
    """When each rank was last heard of: rank 0 and each other rank send each other a heartbeat now and then.

    The pauses grow with the number of ranks, so that rank 0's work does not: 2 s up to 64 ranks.
    """

    def __init__(self, ranks: int, expected: set[int]) -> None:
        self.pause = _BEAT_SECONDS * max(1.0, ranks / TIGHT_HEALTH_NODES)
        self.patience = self.pause * _MISSED_BEATS
        now = time.monotonic()
        self._known = frozenset(expected)
        self._heard = dict.fromkeys(expected, now)
        self._sent = now

    @property
    def expected(self) -> tuple[int, ...]:
        """The ranks that are not missed yet."""
        return tuple(self._heard)

    def heard(self, rank: int) -> None:
        """A message from this rank has come."""
        if rank in self._known:
            self._heard[rank] = time.monotonic()  # also one that was missed: it may have been stopped for a while

    def due(self) -> bool:
        """True once a pause: it is time for a heartbeat."""
        if time.monotonic() - self._sent < self.pause:
            return False
        self._sent = time.monotonic()
        return True

    def quiet(self) -> frozenset[int]:
        """The ranks that sent nothing in three pauses, or that are missed."""
        now = time.monotonic()
        recent = {rank for rank, at in self._heard.items() if now - at <= self.pause * _QUIET_BEATS}
        return self._known - recent

    def missed(self, gone: frozenset[int] = frozenset()) -> list[tuple[int, float]]:
        """(rank, seconds of silence) of those that are newly missed, or gone; each is named once."""
        now = time.monotonic()
        silent = {rank: now - at for rank, at in self._heard.items()}
        found = [(rank, seconds) for rank, seconds in silent.items() if seconds > self.patience or rank in gone]
        for rank, _ in found:
            del self._heard[rank]
        return found
