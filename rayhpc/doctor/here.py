"""What the checks of one rank look at: this process and its job, and what rank 0 has told of the other hosts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rayhpc import schedulers
from rayhpc.doctor.answering import Measured
from rayhpc.host import gpus
from rayhpc.model import Gpus
from rayhpc.options import Options
from rayhpc.ranks import launcher
from rayhpc.ranks.launcher import Launched
from rayhpc.schedulers import commands
from rayhpc.schedulers.facts import Scheduler


@dataclass(frozen=True)
class Peer:
    """A host that others may try to reach: its name, its addresses, the ports at which it answers."""

    host: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]

    @property
    def ways(self) -> list[tuple[str, int]]:
        """Each address with each port."""
        return [(address, port) for address in self.addresses for port in self.ports]


@dataclass(frozen=True)
class Meeting:
    """What rank 0 tells one rank of the others: constant in size, whatever the number of ranks.

    leads: it is rank 0; first: it is the first rank of its host, which looks at the host; ranks_here: ranks on that
    host; hosts: of the launch; versions: rank 0's, for comparison; head: None on its own host; peers: some other hosts,
    the next one first; unused: hosts of the job without a rank, told to rank 0.
    """

    leads: bool
    first: bool
    ranks_here: int
    hosts: int
    versions: Mapping[str, str]
    head: Peer | None
    peers: tuple[Peer, ...]
    unused: tuple[str, ...] = ()

    @property
    def others(self) -> list[Peer]:
        """The head and the peers, each once."""
        return list(dict.fromkeys([*([self.head] if self.head else []), *self.peers]))


@dataclass(frozen=True)
class Ways:
    """What a host has measured of the ways to others.

    refusals: why connections to their addresses and ports failed, empty for one that did not; following, head: of the
    way to the next host and to the head, or why it could not be measured; None where there is none.
    """

    refusals: Mapping[tuple[str, int], str] = field(default_factory=dict)
    following: Measured | str | None = None
    head: Measured | str | None = None


@dataclass(frozen=True)
class Here:
    """One rank, or one process that was simply started: then there is no meeting."""

    options: Options
    environ: Mapping[str, str]
    meeting: Meeting | None = None
    ways: Ways = field(default_factory=Ways)

    @cached_property
    def scheduler(self) -> Scheduler | None:
        """The batch system whose job we are in."""
        return schedulers.detect(self.environ)

    @cached_property
    def launched(self) -> Launched | None:
        """How this process was launched."""
        return launcher.launched(self.environ)

    @cached_property
    def gpus(self) -> Gpus:
        """The GPUs that this process may use."""
        return gpus.find(self.environ)

    @cached_property
    def job(self) -> commands.Said:
        """What the scheduler says of our job, and why it does not; asked once."""
        return commands.describe(self.scheduler, self.environ) if self.scheduler else ("", "")

    @cached_property
    def now(self) -> float:
        """Unix seconds."""
        return time.time()
