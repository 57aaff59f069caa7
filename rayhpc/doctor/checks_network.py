"""Checks of the ways between hosts: each host tries the head, the next host, and one other; the head tries some."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rayhpc.doctor import answering
from rayhpc.doctor.finding import Finding, fail, warn
from rayhpc.doctor.here import Here, Meeting, Peer

_AT_ONCE = 12
_SLOW_ROUND = 0.005
_SLOW_RATE = 50e6
_SKEW_SECONDS = 1.0


def try_all(meeting: Meeting) -> dict[tuple[str, int], str]:
    """Why a connection to an address and port of other hosts failed, empty if it did not; tried side by side."""
    wanted = [to for peer in meeting.others for to in peer.ways]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(wanted, pool.map(answering.connect, wanted), strict=True))


def _open(peer: Peer, here: Here) -> list[tuple[str, int]]:
    return [to for to in peer.ways if not here.tries[to]]


def _refusals(peer: Peer, here: Here) -> dict[tuple[str, int], str]:
    return {to: f"{peer.host} {to[0]} port {to[1]}: {here.tries[to]}" for to in peer.ways if here.tries[to]}


def reach(here: Here) -> Iterator[Finding]:
    """Each host reaches the head and others, and is reached.

    Ray's nodes connect to each other in both directions. Each host tries the head, the next host and one at random; the
    head tries some. The addresses of all interfaces are tried; one is enough.
    """
    for peer in here.meeting.others if here.meeting else ():
        if not _open(peer, here):
            yield fail(
                f"{peer.host} cannot be reached",
                *list(_refusals(peer, here).values())[:6],
                next_step="choose the network that connects all hosts: --interface; or leave that host out",
            )


def ports(here: Here) -> Iterator[Finding]:
    """No firewall between the hosts: high ports of three ranges are open.

    Ray's workers listen on 10002 to 19999, rayhpc's head on 20000 to 32767, and some services on whatever the kernel
    gives them. Where only some are open, a cluster comes up and hangs at its first task.
    """
    for peer in here.meeting.others if here.meeting else ():
        reached = {address for address, _ in _open(peer, here)[:1]}
        if closed := [text for to, text in _refusals(peer, here).items() if to[0] in reached]:
            yield fail(
                f"some ports of {peer.host} are closed",
                *closed,
                next_step="ask the site to open 1024 to 65535 between the hosts of a job, or use another --interface",
            )


def speed(here: Here) -> Iterator[Finding]:
    """The way to the next host is fast: there and back within 5 ms, 50 MB/s at least.

    A cable that has fallen back to 100 Mbit/s, or traffic over the management network, holds up all other hosts.
    """
    peers = here.meeting.peers[:1] if here.meeting else ()
    for peer in peers:
        for address, port in _open(peer, here)[:1]:
            try:
                found = answering.measure(address, port, speed=True)
            except OSError as error:
                yield fail(
                    f"data sent to {peer.host} does not arrive", f"{address}: {error.strerror or error}",
                    next_step="look at the MTU of both hosts: large packets are lost",
                )  # fmt: skip
                continue
            if found.round_trip > _SLOW_ROUND or found.rate < _SLOW_RATE:
                yield warn(
                    f"the way to {peer.host} is slow",
                    f"{address}: there and back {found.round_trip * 1e3:.1f} ms; {found.rate / 1e6:.0f} MB/s",
                    next_step="choose a faster network: --interface; if it is the only one, tell the site",
                )


def clock(here: Here) -> Iterator[Finding]:
    """The clocks of the hosts agree within a second.

    The job's end, --tls and what is written about a run go by them.
    """
    head = here.meeting.head if here.meeting else None
    for address, port in _open(head, here)[:1] if head else ():
        try:
            found = answering.measure(address, port, speed=False)
        except OSError:
            continue  # the check `reach` has just had an answer there; `speed` reports what is lost on the way
        if abs(found.ahead) - found.round_trip > _SKEW_SECONDS:
            way = "behind" if found.ahead > 0 else "ahead of"
            yield warn(
                f"the clock is {way} the head's by more than a second",
                f"{abs(found.ahead):.1f} s",
                next_step="tell the site that chrony or ntpd does not run on this host",
            )
