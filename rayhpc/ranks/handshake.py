"""Ranks that share a secret find each other: rank 0 gathers, the others join; both with a deadline, either first."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayhpc.errors import ExitCode, Fault, RayhpcError, shortened
from rayhpc.ranks import tcp
from rayhpc.ranks.tcp import Link, Star

_PAUSE = 0.1
_CONNECT_SECONDS = 2.0
# One who connects has so long to show the secret; a host under load takes a second or two.
_HELLO_SECONDS = 10.0
_HELLO_BYTES = 2**16
# Connections that have not shown the secret yet: beyond these the oldest must go.
_STRANGERS = 64
_TOLD_STRANGERS = 3


@dataclass(frozen=True)
class Hello:
    """A rank to rank 0: who comes; rank is None for one that takes the number it is given."""

    rank: int | None
    place: str


@dataclass(frozen=True)
class _Present:
    """Rank 0 to those who have come: so many are there, rank 0 included."""

    count: int
    size: int


@dataclass(frozen=True)
class Welcome:
    """Rank 0 to each, once all are there. own: what rank 0 hands to all."""

    rank: int
    size: int
    own: Any


class NotYet(Exception):
    """Why rank 0 cannot be reached now; another look may find it."""


@dataclass(frozen=True)
class Door:
    """Where rank 0 listens, and the secret that opens it."""

    addresses: tuple[tuple[str, int], ...]
    secret: bytes = field(repr=False)


class Wait:
    """How long a rank waits for the others, how it says so, and what to do if they do not come.

    tell: prints a line; after: seconds of waiting before the first; place: how this rank is named.
    """

    def __init__(
        self, seconds: float, tell: Callable[[str], None], place: str, next_step: str, after: float = 0.0
    ) -> None:
        self.seconds, self.place, self.next_step = seconds, place, next_step
        self._tell, self._began, self._after = tell, time.monotonic(), after
        self._said = ""
        self._hinted = False

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._began + self.seconds - time.monotonic()

    def say(self, text: str) -> None:
        """Tell what is waited for, and the first time what the user can do about it."""
        if self.note(text) and not self._hinted:
            self._hinted = True
            self._tell(self.next_step)

    def note(self, text: str) -> bool:
        """Tell how it stands, when that changes; True if it was told."""
        if text == self._said or time.monotonic() < self._began + self._after:
            return False
        self._said = text
        self._tell(text)
        return True

    def warn(self, text: str) -> None:
        """Tell it at once."""
        self._tell(f"WARNING: {text}")

    def over(self, what: str, evidence: Sequence[str], which: str = "") -> RayhpcError:
        """The error at the deadline."""
        what = f"{what} within {self.seconds:.0f} s{which}"
        return RayhpcError(Fault(what, ExitCode.NOT_READY, self.place, tuple(evidence), self.next_step))


@dataclass
class _Guest:
    """Who has connected: hello is None until the secret was shown."""

    link: Link
    address: str
    until: float
    hello: Hello | None = None


def gather(listener: socket.socket, secret: bytes, size: int, own: Any, wait: Wait) -> Star:
    """Rank 0: wait for all others; raises RayhpcError, after telling those who came, when the time is over."""
    lobby = _Lobby(listener, secret, size, wait)
    try:
        while not lobby.complete:
            wait.say(lobby.words)
            if wait.left <= 0:
                raise lobby.dissolved()
            lobby.look(min(_PAUSE, max(0.0, wait.left)))
        return lobby.open(own)
    finally:
        lobby.close()


class _Lobby:
    """Who has come so far. One who does not show the secret is turned away, and holds up nobody."""

    def __init__(self, listener: socket.socket, secret: bytes, size: int, wait: Wait) -> None:
        listener.setblocking(False)
        self._listener, self._secret, self._size, self._wait = listener, secret, size, wait
        self._guests: list[_Guest] = []
        self._turned_away: list[str] = []

    @property
    def _come(self) -> list[_Guest]:
        return [guest for guest in self._guests if guest.hello is not None]

    @property
    def complete(self) -> bool:
        """All ranks are there."""
        return len(self._come) == self._size - 1

    @property
    def words(self) -> str:
        """What is waited for."""
        return f"{len(self._come) + 1} of {self._size} ranks are here; waiting {self._wait.seconds:.0f} s for the rest"

    def look(self, seconds: float) -> None:
        """Wait for news and take it in."""
        sources: list[socket.socket | Link] = [self._listener, *(guest.link for guest in self._guests)]
        ready = select.select(sources, [], [], seconds)[0]
        before = len(self._come)
        for guest in [guest for guest in self._guests if guest.link in ready]:
            self._hear(guest)
        if self._listener in ready:
            self._accept()
        for guest in [guest for guest in self._guests if guest.hello is None and time.monotonic() > guest.until]:
            self._turn_away(guest, f"it has not shown the secret within {_HELLO_SECONDS:.0f} s")
        if len(self._come) != before:
            for guest in self._come:
                guest.link.send(_Present(len(self._come) + 1, self._size))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # a connection that has gone again
            connection, address = self._listener.accept()
            link = Link(connection, self._secret, tcp.HEAD, _HELLO_BYTES)
            until = time.monotonic() + _HELLO_SECONDS
            self._guests.append(_Guest(link, str(address[0]).removeprefix("::ffff:"), until))
        strangers = [guest for guest in self._guests if guest.hello is None]
        for guest in strangers[:-_STRANGERS]:
            self._turn_away(guest, "too many have connected without showing the secret")

    def _hear(self, guest: _Guest) -> None:
        """Take in a hello; drop a guest that has gone again."""
        for message in guest.link.take():
            if guest.hello is None and isinstance(message, Hello):
                problem = self._problem(message)
                if problem:
                    guest.link.send(self._refusal(problem, message))
                    self._drop(guest)
                    return
                guest.hello = message
        if guest.link.lost and guest.hello is None:
            self._turn_away(guest, guest.link.lost)
        elif guest.link.lost:
            self._drop(guest)

    def _problem(self, hello: Hello) -> str:
        """Why this rank cannot be one of ours; empty if it can."""
        if self.complete:
            return f"all {self._size} ranks are there already"
        if hello.rank is None:
            return ""
        if not 0 < hello.rank < self._size:
            return f"there is no rank {hello.rank} among {self._size}"
        twins = [guest.hello.place for guest in self._come if guest.hello and guest.hello.rank == hello.rank]
        return f"rank {hello.rank} is there already: {twins[0]}" if twins else ""

    def _refusal(self, problem: str, hello: Hello) -> Fault:
        step = "start as many processes as the launch has ranks, each with a number of its own"
        return Fault(problem, ExitCode.CONFIGURATION, hello.place, next_step=step)

    def _turn_away(self, guest: _Guest, why: str) -> None:
        """Drop one who has not shown the secret; the first few are told, since they may be a rank with an old one."""
        self._turned_away.append(f"{guest.address} was turned away: {why}")
        if len(self._turned_away) <= _TOLD_STRANGERS:
            self._wait.warn(self._turned_away[-1])
        self._drop(guest)

    def _drop(self, guest: _Guest) -> None:
        self._guests.remove(guest)
        guest.link.close()

    def open(self, own: Any) -> Star:
        """Give every guest its rank and let all begin; who has named none gets the next free one, first come first."""
        named = {guest.hello.rank: guest for guest in self._come if guest.hello and guest.hello.rank is not None}
        free = (rank for rank in range(1, self._size) if rank not in named)
        ranks = {**named, **{next(free): guest for guest in self._come if guest.hello and guest.hello.rank is None}}
        for rank, guest in ranks.items():
            guest.link.send(Welcome(rank, self._size, own))
            self._guests.remove(guest)
        return Star(0, self._size, {rank: ranks[rank].link for rank in sorted(ranks)})

    def dissolved(self) -> RayhpcError:
        """The error at the deadline, which is told to those who came."""
        named = {guest.hello.rank for guest in self._come if guest.hello}
        lacking = [str(rank) for rank in range(1, self._size) if rank not in named]
        missing = f": rank {shortened(lacking)}" if named - {None} else ""
        come = [guest.hello.place for guest in self._come if guest.hello]
        evidence = [f"here: {shortened([self._wait.place, *come])}", *self._turned_away[-_TOLD_STRANGERS:]]
        absent = self._size - 1 - len(come)
        error = self._wait.over(f"{absent} of {self._size} ranks have not come", evidence, missing)
        for guest in self._come:
            guest.link.send(error.fault)
        return error

    def close(self) -> None:
        """Nobody else comes in."""
        self._listener.close()
        for guest in self._guests:
            guest.link.close()


def join(find: Callable[[], Door], hello: Hello, wait: Wait) -> tuple[Star, Any]:
    """Any other rank: wait for rank 0 and for all; with what rank 0 hands to all; raises RayhpcError as rank 0 does.

    find: where rank 0 is, asked anew for each try; raises NotYet while that cannot be known.
    """
    while True:
        try:
            link, news = _knock(find(), hello)
            welcome, more = _admitted(link, news, wait)
            made = Star(welcome.rank, welcome.size, {0: link})
            made.keep(0, more)
            return made, welcome.own
        except NotYet as reason:
            wait.say(f"waiting {wait.seconds:.0f} s for rank 0: {reason}")
            if wait.left <= 0:
                raise wait.over("rank 0 has not come", [str(reason)]) from reason
        time.sleep(_PAUSE)


def _knock(door: Door, hello: Hello) -> tuple[Link, list[Any]]:
    """A connection on which rank 0 has shown the secret, too, and what it has said; the first that answers is taken."""
    reasons = []
    for host, port in door.addresses:
        try:
            link = Link(socket.create_connection((host, port), _CONNECT_SECONDS), door.secret, tcp.WORKER)
        except OSError as error:
            reasons.append(f"{host}:{port}: {error.strerror or error}")
            continue
        link.send(hello)
        news = _first_news(link)
        if news:
            return link, news
        link.close()
        reasons.append(f"{host}:{port}: {_silence(link)}")
    raise NotYet("; ".join(reasons))


def _first_news(link: Link) -> list[Any]:
    """The first messages, which only one who knows the secret can have sent; nothing if none come."""
    end = time.monotonic() + _HELLO_SECONDS
    news: list[Any] = []
    while not news and not link.lost and (left := end - time.monotonic()) > 0:
        select.select([link], [], [], left)
        news = link.take()
    return news


def _silence(link: Link) -> str:
    """Why the other end is not one of ours."""
    if link.greeted:
        return "rank 0 has another secret"
    return link.lost or f"what answers has said nothing in {_HELLO_SECONDS:.0f} s"


def _admitted(link: Link, news: list[Any], wait: Wait) -> tuple[Welcome, list[Any]]:
    """Wait for the welcome, and what comes with it; raises NotYet if rank 0 goes before, RayhpcError as rank 0 does."""
    try:
        while (welcome := _heard(news, wait)) is None:
            if link.lost:
                raise NotYet("it has gone again")
            if wait.left <= 0:
                raise wait.over("not all ranks have come", ["rank 0 is there, and waits for others"])
            select.select([link], [], [], min(_PAUSE, max(0.0, wait.left)))
            news = link.take()
    except (NotYet, RayhpcError):
        link.close()
        raise
    return welcome, news


def _heard(news: list[Any], wait: Wait) -> Welcome | None:
    """The welcome, if it has come: all before it is taken out of the news; raises RayhpcError that rank 0 has told."""
    while news:
        message = news.pop(0)
        if isinstance(message, Fault):
            raise RayhpcError(message)
        if isinstance(message, Welcome):
            return message
        if isinstance(message, _Present):
            wait.note(f"{message.count} of {message.size} ranks are here")
    return None
