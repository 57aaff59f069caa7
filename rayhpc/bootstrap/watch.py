"""Everything that a rank must notice, in one place to wait: mail, signals, the ends of its children."""

from __future__ import annotations

from collections.abc import Callable

from rayhpc.messages import Mail, SignalArrived
from rayhpc.processes import polling
from rayhpc.processes.children import Child
from rayhpc.processes.signals import Signals
from rayhpc.ranks.comm import Comm

# Seconds between two looks for mail: while the cluster comes up, and while the driver runs.
_FAST = 0.01
_SLOW = 0.1
# A single rank gets no mail, a spare next to none; signals and their children's ends wake them at once.
_SELDOM = 0.5


class Watch:
    """Waits without blocking in MPI: mail is looked for every `every` seconds, the rest wakes it at once."""

    def __init__(self, comm: Comm, signals: Signals, every: float = _FAST) -> None:
        self.every = every
        self._comm = comm
        self._signals = signals
        self._children: dict[Child, Callable[[Child], Mail]] = {}

    def slow_down(self) -> None:
        """Look for mail less often from now on: the cluster is up, or this rank's part of it has begun."""
        self.every = _SLOW if self._comm.size > 1 else _SELDOM

    def doze(self) -> None:
        """Look for mail seldom until slow_down(): this rank only waits, and each look takes 0.1 ms of a core."""
        self.every = _SELDOM

    def add(self, child: Child, on_end: Callable[[Child], Mail]) -> None:
        """Watch a child; on_end makes the event of its end."""
        self._children[child] = on_end

    def forget(self, child: Child) -> None:
        """No longer make an event of a child's end."""
        self._children.pop(child, None)

    def wait(self) -> list[tuple[int, Mail]]:
        """(rank, mail or event) of all that has come by now, waiting up to `every` seconds for the first."""
        found = self._receive()
        if not found:
            sources = [self._signals.fileno(), *(child.fileno() for child in self._children)]
            polling.readable(sources, self.every)
            found = self._receive()
        rank = self._comm.rank
        found += [(rank, SignalArrived(rank, signum, count)) for signum, count in self._signals.take()]
        for child, on_end in list(self._children.items()):
            if child.poll():
                del self._children[child]
                found.append((rank, on_end(child)))
        return found

    def _receive(self) -> list[tuple[int, Mail]]:
        found = []
        while received := self._comm.receive():
            found.append(received)
        return found
