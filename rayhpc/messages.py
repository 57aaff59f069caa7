"""What happens to a run, as events; and what its ranks write to each other."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Generic, TypeVar

from rayhpc.errors import Fault

T = TypeVar("T")

# The signals that end a run.
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


# Events: what happened, as the supervisor of rank 0 sees it. `at` is Unix seconds.

@dataclass(frozen=True)
class SignalArrived:
    """A rank got its ordinal-th signal of this number."""

    rank: int
    signum: int
    ordinal: int


@dataclass(frozen=True)
class NodeEnded:
    """The `ray start` of a rank ended; code is -n for signal n; tail is what it last wrote.

    restart: 0 for the node's first start, n for what RestartNode(n) began; keeper: how the keeper above it ended, where
    that went first, else 0.
    """

    rank: int
    host: str
    code: int
    tail: tuple[str, ...] = ()
    restart: int = 0
    keeper: int = 0


@dataclass(frozen=True)
class NodeDead:
    """Ray's node table no longer has a node alive that it once had."""

    rank: int
    host: str


@dataclass(frozen=True)
class NodeLate:
    """A node was not alive so many seconds after its start."""

    rank: int
    host: str
    seconds: float


@dataclass(frozen=True)
class HeadSilent:
    """The GCS has not answered for so many seconds; closed: its port refuses connections."""

    seconds: float
    closed: bool = False


@dataclass(frozen=True)
class RankSilent:
    """Nothing has come from a rank for so many seconds; closed: its connection has ended."""

    rank: int
    host: str
    seconds: float
    closed: bool = False


@dataclass(frozen=True)
class RankFailed:
    """A rank met an error of its own."""

    rank: int
    fault: Fault


@dataclass(frozen=True)
class DriverEnded:
    """The driver ended; code is -n for signal n; keeper: how its keeper ended, where that went first, else 0."""

    code: int
    keeper: int = 0


@dataclass(frozen=True)
class TimeUp:
    """The end of the job is near (final is False: the grace begins) or reached."""

    final: bool


# What may come of a node.
Loss = NodeEnded | NodeDead | NodeLate | RankSilent
Event = SignalArrived | Loss | HeadSilent | RankFailed | DriverEnded | TimeUp


# Mail between ranks.


@dataclass(frozen=True)
class StartNode:
    """Rank 0 to a worker: the head is alive at this address."""

    address: str


@dataclass(frozen=True)
class RestartNode:
    """Rank 0 to a worker whose node was lost: start it again, for the ordinal-th time."""

    ordinal: int


@dataclass(frozen=True)
class EndNode:
    """Rank 0 to a worker whose place a spare has taken: end what is left of the node."""


@dataclass(frozen=True)
class Stop:
    """Rank 0 to all: end your node; send your logs if wanted."""

    logs: bool
    logs_limit: int


@dataclass(frozen=True)
class Alive:
    """A heartbeat: between rank 0 and each other rank, both ways."""


@dataclass(frozen=True)
class Milestone:
    """A rank reached a stage: for the timeline in events.jsonl. at is Unix seconds on its own clock.

    warning: what the user reads of it; since: when the stage began, where no other event says it.
    """

    rank: int
    host: str
    stage: str
    at: float
    warning: str = ""
    since: float | None = None


@dataclass(frozen=True)
class Stopped:
    """A rank has shut down. logs: (name, content) of Ray's log files."""

    rank: int
    killed: int
    logs: tuple[tuple[str, bytes], ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leave:
    """Rank 0 to all, last: end in order."""


@dataclass(frozen=True)
class Contribution(Generic[T]):
    """While all ranks agree: what a rank contributes, or what rank 0 answers; or the fault that took its place."""

    value: T | None = None
    fault: Fault | None = None


Mail = (
    Event | StartNode | RestartNode | EndNode | Stop | Alive | Milestone | Stopped | Leave | Contribution[object]
)
