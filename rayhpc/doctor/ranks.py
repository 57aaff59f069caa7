"""All ranks meet, look, and report to rank 0: no Ray is started.

Every rank sends three short messages to rank 0: who it is, that it has measured its ways to others, and what is not
well. Each compares itself with rank 0, so that rank 0 only joins equal findings.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from functools import partial

from rayhpc import finding, schedulers
from rayhpc.bootstrap import plan
from rayhpc.doctor import catalog
from rayhpc.doctor.answering import Answering
from rayhpc.doctor.checks_network import measure_all
from rayhpc.doctor.checks_python import versions_here
from rayhpc.doctor.here import Here, Meeting, Peer, Ways
from rayhpc.doctor.look import SECONDS, look
from rayhpc.errors import Fault, counted
from rayhpc.finding import Finding, Verdict
from rayhpc.host import this_host
from rayhpc.model import HEAD_RANK, BadHost
from rayhpc.options import Options
from rayhpc.ranks.comm import Comm, agree
from rayhpc.schedulers.facts import Environment

# The head tries so many hosts; all others are tried by the host before them.
_SAMPLE = 8
_MEET_SECONDS = 60.0


@dataclass(frozen=True)
class Facts:
    """What a rank says of itself. versions: of rank 0 alone."""

    host_id: str
    peer: Peer
    versions: Mapping[str, str]


class Part(Enum):
    """What a rank does after the checks."""

    TAKES_PART = "it is part of a run"
    LEFT_OUT = "its host could not be part of a run, which goes on without it"
    ENDS = "no run can begin"


@dataclass(frozen=True)
class Result:
    """What was found in an allocation; all ranks but 0 are told their part alone. summary: what was looked at.

    bad: the hosts that are not well, where others are.
    """

    findings: tuple[Finding, ...]
    summary: str
    part: Part
    bad: tuple[BadHost, ...] = ()

    @property
    def text(self) -> str:
        """What people read."""
        then = "" if self.part is Part.ENDS else "a run goes on without these hosts"
        return finding.report(self.findings, f"rayhpc doctor: {self.summary}", then)


def examine(options: Options, comm: Comm, environ: Environment) -> Result:
    """Make the checks in all ranks; raises RayhpcError where a rank does not answer, and for a check that is none."""
    place, began = f"rank {comm.rank} on {this_host.name()}", time.monotonic()
    skip = [word for word in options.check_skip.split(",") if word]
    patience = _MEET_SECONDS + 0.1 * comm.size
    ways: list[Ways] = []
    with closing(Answering()) as answering:
        facts = partial(_facts, comm.rank == HEAD_RANK, options.interface, answering.ports)
        meeting: Meeting = agree(comm, place, facts, partial(_meet, environ), patience)

        def measure() -> None:
            ways.append(measure_all(meeting) if meeting.first else Ways())

        agree(comm, place, measure, list, patience)

    def own() -> tuple[str, list[Finding]]:
        here = Here(options, environ, meeting, *ways)
        return this_host.name(), look(catalog.chosen(catalog.of(here), skip=skip), here)

    def join(found: Sequence[tuple[str, list[Finding]]]) -> list[Result]:
        count = f"{len(catalog.chosen(catalog.ALL, skip=skip))} checks on {counted(meeting.hosts, 'host')}"
        return _join(f"{count} in {time.monotonic() - began:.1f} s", options, found)

    return agree(comm, place, own, join, SECONDS + patience)


def _may_exclude(options: Options, bad: int) -> bool:
    """Whether a run may go on without so many hosts."""
    return options.check == "exclude" and (options.min_nodes > 0 or bad <= options.spares)


def unmet(fault: Fault) -> Result:
    """The result where the ranks have not even met."""
    found = finding.Finding.of(fault)
    where = fault.where or this_host.name()
    named = Finding(found.verdict, found.what, found.evidence, found.next_step, "ranks-meet", where)
    return Result((named,), "the ranks have not met", Part.ENDS)


def _facts(leads: bool, interface: str, ports: tuple[int, ...]) -> Facts:
    # Where none is as wanted, the check `interfaces` of that host says so.
    found = this_host.interfaces(interface) or this_host.interfaces()
    addresses = tuple(entry.address for entry in found)
    versions = versions_here() if leads else {}
    return Facts(this_host.identity(), Peer(this_host.name(), addresses or ("127.0.0.1",), ports), versions)


def _meet(environ: Environment, found: Sequence[Facts]) -> list[Meeting]:
    """What each rank is told: hosts stand in a ring, in the order of their first ranks."""
    first: dict[str, int] = {}
    ranks_here: dict[str, int] = {}
    for rank, facts in enumerate(found):
        first.setdefault(facts.host_id, rank)
        ranks_here[facts.host_id] = ranks_here.get(facts.host_id, 0) + 1
    ring = [found[rank].peer for rank in first.values()]
    places = {host_id: place for place, host_id in enumerate(first)}
    scheduler = schedulers.detect(environ)
    granted = scheduler.hosts(environ) if scheduler else []
    unused = plan.unused_hosts(granted, {host_id: found[rank].peer.host for host_id, rank in first.items()})
    return [
        Meeting(
            leads=rank == HEAD_RANK,
            first=first[facts.host_id] == rank,
            ranks_here=ranks_here[facts.host_id],
            hosts=len(ring),
            versions=found[HEAD_RANK].versions,
            head=ring[0] if places[facts.host_id] else None,
            peers=_peers(ring, places[facts.host_id]),
            unused=tuple(unused) if rank == HEAD_RANK else (),
        )
        for rank, facts in enumerate(found)
    ]


def _peers(ring: Sequence[Peer], place: int) -> tuple[Peer, ...]:
    """The next host of the ring, and one more at random; for the head some."""
    following = ring[(place + 1) % len(ring)]
    others = [peer for peer in ring if peer not in (following, ring[place])]
    more = random.sample(others, min(len(others), 1 if place else _SAMPLE))
    return (following, *more) if len(ring) > 1 else ()


def _join(looked: str, options: Options, found: Sequence[tuple[str, Sequence[Finding]]]) -> list[Result]:
    every = tuple(finding.joined(each for _, own in found for each in own))
    bad = {host for host, own in found if finding.worst(own) is Verdict.FAIL}
    goes_on = not bad or (_may_exclude(options, len(bad)) and found[HEAD_RANK][0] not in bad)
    parts = [Part.ENDS if not goes_on else Part.LEFT_OUT if host in bad else Part.TAKES_PART for host, _ in found]
    named = _bad_hosts(found, len({host for host, _ in found} - bad))
    return [Result((), looked, part) if rank else Result(every, looked, part, named) for rank, part in enumerate(parts)]


def _bad_hosts(found: Sequence[tuple[str, Sequence[Finding]]], well: int) -> tuple[BadHost, ...]:
    """The hosts with a failure, each with its first; none where no host is well: then it is not the hosts."""
    now = time.time()
    reasons: dict[str, str] = {}
    for host, own in found:
        for each in own:
            if each.verdict is Verdict.FAIL:
                reasons.setdefault(host, f"{each.id}: {each.what}")
    return tuple(BadHost(host, reason, now) for host, reason in reasons.items()) if well else ()
