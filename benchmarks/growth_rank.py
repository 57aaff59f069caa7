"""One rank of benchmarks.growth: DIRECTORY, then what `python -m rayhpc.start` takes.

Before them: --no-sweep, and the ranks do not look through all processes of the host at the end; of a thousand on a host
each would look at three thousand. --forked N: N ranks, which share the memory of their imports, so that a thousand fit
on a host; they meet over TCP.

In the place of Ray: a child that sleeps for `ray start`, and a node table that has a node as soon as its rank has said
that it starts it. All else is the product. What a rank has sent, received and computed goes to DIRECTORY/rank-N.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rayhpc import start
from rayhpc.bootstrap import lead, story
from rayhpc.bootstrap.supervise import Supervisor
from rayhpc.messages import Mail, Milestone
from rayhpc.model import AliveNode
from rayhpc.processes import children, ray_start
from rayhpc.ranks import handshake, mpi, tcp
from rayhpc.records.run_directory import EventLog

# The child of every rank, in the place of `ray start`.
_SLEEPS = ("sleep", "infinity")
CPUS = 1


class Counter:
    """What this rank has done so far, noted at some moments."""

    def __init__(self) -> None:
        self.sent = self.received = self.messages = 0
        self.marks: dict[str, dict[str, float]] = {}

    def dumps(self, message: object, *protocol: int) -> bytes:
        """Pickle, as mpi4py does."""
        content = pickle.dumps(message, *protocol)
        self.sent += len(content)
        self.messages += 1
        return content

    def loads(self, content: Any) -> Any:
        """Unpickle."""
        self.received += memoryview(content).nbytes
        self.messages += 1
        return pickle.loads(content)

    def mark(self, moment: str) -> None:
        """Note what has been done until now; the first time counts."""
        now = {"at": time.time(), "cpu": time.process_time(), "sent": self.sent, "received": self.received}
        self.marks.setdefault(moment, {**now, "messages": self.messages})

    def save(self, file: Path) -> None:
        """Write all moments, and the most memory that this rank has had in bytes."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        file.write_text(json.dumps({"rss": memory, **self.marks}))


COUNTER = Counter()


DIRECTORY = Path()


class CountingMpi(mpi.MpiComm):
    """MPI that counts."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self._mpi.pickle.__init__(COUNTER.dumps, COUNTER.loads)
        COUNTER.mark("met")

    def send(self, to: int, message: Mail) -> None:
        """Send, and notice the end of the agreement."""
        note(message)
        super().send(to, message)

    def leave(self) -> None:
        """Leave, once all is noted."""
        save(self.rank)
        super().leave()


class CountingTcp(tcp.TcpComm):
    """TCP that counts; what the ranks need to meet is counted as well."""

    def __init__(self, rank: int, size: int, links: Mapping[int, tcp.Link]) -> None:
        super().__init__(rank, size, links)
        COUNTER.mark("met")

    def send(self, to: int, message: Mail) -> None:
        """Send, and notice the end of the agreement."""
        note(message)
        super().send(to, message)

    def leave(self) -> None:
        """Leave, once all is noted."""
        save(self.rank)
        super().leave()


def note(message: Mail) -> None:
    """A rank has agreed when it tells rank 0 when its imports were done."""
    if isinstance(message, Milestone) and message.stage == "imported":
        COUNTER.mark("agreed")


def save(rank: int) -> None:
    """The last moment, and all before it, in the rank's file."""
    COUNTER.mark("left")
    COUNTER.save(DIRECTORY / f"rank-{rank}.json")


class CountingLog(EventLog):
    """The record of the run, whose lines are moments."""

    def write(self, stage: str, rank: int, host: str, at: float | None = None, **details: Any) -> None:
        """Write a line."""
        super().write(stage, rank, host, at, **details)
        if rank == 0:
            COUNTER.mark(stage)


class StubTable:
    """The node table without Ray: the nodes whose ranks have said that they start them."""

    silence = 0.0
    closed = False
    last_error = ""

    def __init__(self, _: str, __: str, **_joined: str) -> None:
        self.every = 0.0
        self.nodes: tuple[AliveNode, ...] = ()

    def start(self) -> None:
        """The head is alive at once."""
        self.add(0)

    def add(self, rank: int) -> None:
        """The rank's node is alive."""
        self.nodes = (*self.nodes, AliveNode(rank, "", CPUS, 0, str(rank)))

    def close(self) -> None:
        """Nothing to do."""


class StubbedSupervisor(Supervisor):
    """Tells the stub table who has started."""

    def _process(self, rank: int, mail: Mail) -> None:
        super()._process(rank, mail)
        if isinstance(mail, Milestone) and mail.stage == "start":
            assert isinstance(self.table, StubTable)
            self.table.add(rank)


def forked(count: int, rank: Callable[[], int]) -> int:
    """So many children of this process, each of which runs a rank; the first code that is not 0. TERM ends them all."""
    children = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os._exit(rank())
        children.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in children])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return next((code for code in codes if code), 0)


def main() -> None:
    """Run the rank, or the ranks."""
    global DIRECTORY
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--no-sweep", action="store_true")
    parser.add_argument("--forked", type=int, default=0)
    parser.add_argument("directory", type=Path)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    DIRECTORY, count, rest = options.directory, options.forked, options.rest
    counting = SimpleNamespace(dumps=COUNTER.dumps, loads=COUNTER.loads, HIGHEST_PROTOCOL=pickle.HIGHEST_PROTOCOL)
    for module, name, stub in [
        (ray_start, "COMMAND", _SLEEPS), (lead, "NodeTable", StubTable), (lead.Leader, "supervisor", StubbedSupervisor),
        (story, "EventLog", CountingLog), (mpi, "MpiComm", CountingMpi), (tcp, "pickle", counting),
        (handshake, "TcpComm", CountingTcp),
    ]:  # fmt: skip
        assert hasattr(module, name)
        setattr(module, name, stub)
    if options.no_sweep:
        children.sweep = lambda *_: 0
    sys.exit(forked(count, lambda: start.main(rest)) if count else start.main(rest))


if __name__ == "__main__":
    main()
