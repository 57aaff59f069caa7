"""One rank of benchmarks.growth: DIRECTORY, then what `python -m rayhpc.start` takes.

In the place of Ray: a child that sleeps for `ray start`, and a node table that has a node as soon as its rank has said
that it starts it. All else is the product. What a rank has sent, received and computed goes to DIRECTORY/rank-N.json.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rayhpc import start
from rayhpc.bootstrap import lead, story
from rayhpc.bootstrap.supervise import Supervisor
from rayhpc.messages import Mail, Milestone
from rayhpc.model import AliveNode
from rayhpc.processes import ray_start
from rayhpc.ranks import mpi
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


class CountingMpi(mpi.MpiComm):
    """MPI that counts. A rank has agreed when it tells rank 0 when its imports were done."""

    directory = Path()

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self._mpi.pickle.__init__(COUNTER.dumps, COUNTER.loads)
        COUNTER.mark("met")

    def send(self, to: int, message: Mail) -> None:
        """Send, and notice the end of the agreement."""
        if isinstance(message, Milestone) and message.stage == "imported":
            COUNTER.mark("agreed")
        super().send(to, message)

    def leave(self) -> None:
        """Leave, once all is noted."""
        COUNTER.mark("left")
        COUNTER.save(self.directory / f"rank-{self.rank}.json")
        super().leave()


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

    def __init__(self, _: str, __: str) -> None:
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


def main() -> None:
    """Run the rank."""
    CountingMpi.directory = Path(sys.argv[1])
    for module, name, stub in [
        (ray_start, "COMMAND", _SLEEPS), (lead, "NodeTable", StubTable), (lead, "Supervisor", StubbedSupervisor),
        (story, "EventLog", CountingLog), (mpi, "MpiComm", CountingMpi),
    ]:  # fmt: skip
        assert hasattr(module, name)
        setattr(module, name, stub)
    sys.exit(start.main(sys.argv[2:]))


if __name__ == "__main__":
    main()
