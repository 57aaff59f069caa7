"""Checks of the ways between hosts: each host tries the head, the next host, and one other; the head tries some.

They are measured before anything else is looked at: an import on each host would slow them down.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rayhpc.doctor import answering
from rayhpc.doctor.answering import Measured
from rayhpc.doctor.here import Here, Meeting, Peer, Ways
from rayhpc.finding import Finding, fail, warn

_AT_ONCE = 12
_SLOW_ROUND = 0.005
_SLOW_RATE = 30e6
_SKEW_SECONDS = 1.0


def measure_all(meeting: Meeting) -> Ways:
    """Try all ways to other hosts, side by side, and measure those to the next host and to the head."""
    wanted = [to for peer in meeting.others for to in peer.ways]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        refusals = dict(zip(wanted, pool.map(answering.connect, wanted), strict=True))
    following, head = (
        next((to for to in (peer.ways if peer else ()) if not refusals[to]), None)
        for peer in (meeting.peers[0] if meeting.peers else None, meeting.head)
    )
    return Ways(
        refusals=refusals,
        following=_measured(following, speed=True) if following else None,
        head=_measured(head, speed=False) if head else None,
    )


def _measured(to: tuple[str, int], speed: bool) -> Measured | str:
    try:
        return answering.measure(*to, speed)
    except OSError as error:
        return f"{to[0]} port {to[1]}: {error.strerror or error}"


def _open(peer: Peer, here: Here) -> list[tuple[str, int]]:
    return [to for to in peer.ways if not here.ways.refusals[to]]


def _refusals(peer: Peer, here: Here) -> dict[tuple[str, int], str]:
    closed = {to: why for to in peer.ways if (why := here.ways.refusals[to])}
    return {to: f"{peer.host} {to[0]} port {to[1]}: {why}" for to, why in closed.items()}


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
    """The way to the next host is fast: there and back within 5 ms, 30 MB/s at least.

    A cable that has fallen back to 100 Mbit/s, or traffic over the management network, holds up all other hosts.
    """
    found = here.ways.following
    if here.meeting is None or found is None:
        return
    host = here.meeting.peers[0].host
    if isinstance(found, str):
        step = "look at the MTU of both hosts: large packets may be lost"
        yield fail(f"data sent to {host} does not arrive", found, next_step=step)
    elif found.round_trip > _SLOW_ROUND or found.rate < _SLOW_RATE:
        yield warn(
            f"the way to {host} is slow",
            f"there and back {found.round_trip * 1e3:.1f} ms; {found.rate / 1e6:.0f} MB/s",
            next_step="choose a faster network: --interface; if it is the only one, tell the site",
        )


def clock(here: Here) -> Iterator[Finding]:
    """The clocks of the hosts agree within a second.

    The job's end, --tls and what is written about a run go by them.
    """
    found = here.ways.head
    if isinstance(found, Measured) and abs(found.ahead) - found.round_trip > _SKEW_SECONDS:
        way = "behind" if found.ahead > 0 else "ahead of"
        yield warn(
            f"the clock is {way} the head's by more than a second",
            f"{abs(found.ahead):.1f} s",
            next_step="tell the site that chrony or ntpd does not run on this host",
        )
