"""The handshake of ranks that share a secret: rank 0 gathers, the others join, in any order, until a deadline."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayhpc.errors import ExitCode, Fault, RayhpcError, shortened
from rayhpc.options import Options
from rayhpc.processes import polling
from rayhpc.ranks import tcp
from rayhpc.ranks.tcp import Link, TcpComm

_PAUSE = 0.1
_CONNECT_SECONDS = 2.0
# A peer has so long to prove that it knows the secret; a host under load takes a second or two.
HELLO_SECONDS = 10.0
_HELLO_BYTES = 2**16
# So many connections may be unproven at a time, or as many as there are ranks: beyond these the oldest is closed.
_MOST_UNPROVEN = 64
# Of more ranks rank 0 alone says who is here: nobody has started them by hand, in as many terminals.
_MOST_TOLD = 64
_MOST_REPORTED = 3
# After so many seconds rank 0 says who is missing.
LATE_SECONDS = 10.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Hello:
    """A rank to rank 0: who connects; rank is None for one that takes the number it is given."""

    rank: int | None
    place: str


@dataclass(frozen=True)
class _Taken:
    """Rank 0 to a rank whose hello it has read, which so learns that rank 0 has the secret, too."""


@dataclass(frozen=True)
class _Progress:
    """Rank 0 to the ranks that are connected: so many are, rank 0 included."""

    count: int
    size: int


@dataclass(frozen=True)
class Welcome:
    """Rank 0 to each, once all are connected. payload: what rank 0 sends to all."""

    rank: int
    size: int
    payload: Options | None


class NotYet(Exception):
    """Why rank 0 cannot be reached now; another look may find it."""


@dataclass(frozen=True)
class Endpoint:
    """Where rank 0 listens, and the secret that a peer must know."""

    addresses: tuple[tuple[str, int], ...]
    secret: bytes = field(repr=False)


class Wait:
    """How long a rank waits for the others, how it reports that, and what the user can do if they do not connect.

    tell: prints a line; after: seconds of waiting before the first line; place: how this rank is named; hosts: all from
    which ranks are expected, where that is known.
    """

    def __init__(
        self, seconds: float, tell: Tell, place: str, next_step: str, after: float = 0.0, hosts: Sequence[str] = ()
    ) -> None:
        self.seconds, self.place, self.next_step, self.hosts = seconds, place, next_step, hosts
        self._tell, self._began, self._after = tell, time.monotonic(), after
        self._last, self._reported_at = "", 0.0
        self._hinted = self._named = False

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._began + self.seconds - time.monotonic()

    def report(self, text: str, every: float = 0.0) -> None:
        """Print what this rank waits for, at most once in so many seconds; the first time what the user can do."""
        if time.monotonic() < self._reported_at + every or not self.progress(text):
            return
        self._reported_at = time.monotonic()
        if not self._hinted:
            self._hinted = True
            self._tell(self.next_step)

    def name_missing(self, text: Callable[[], str]) -> None:
        """Print once who is missing, when the wait has become long."""
        if not self._named and time.monotonic() > self._began + LATE_SECONDS:
            self._named = True
            self._tell(f"not here after {LATE_SECONDS:g} s: {text()}")

    def progress(self, text: str) -> bool:
        """Print the state of the handshake where it has changed; True if it was printed."""
        if text == self._last or time.monotonic() < self._began + self._after:
            return False
        self._last = text
        self._tell(text)
        return True

    def warn(self, text: str) -> None:
        """Print a warning at once."""
        self._tell(f"WARNING: {text}")

    def timeout_error(self, what: str, evidence: Sequence[str], which: str = "") -> RayhpcError:
        """The error at the deadline."""
        what = f"{what} within {self.seconds:.0f} s{which}"
        return RayhpcError(Fault(what, ExitCode.NOT_READY, self.place, tuple(evidence), self.next_step))


@dataclass
class _Peer:
    """Who has connected: hello is None until it has proved that it knows the secret."""

    link: Link
    address: str
    until: float
    hello: Hello | None = None


def gather(
    listener: socket.socket,
    secret: bytes,
    size: int,
    payload: Options | None,
    wait: Wait,
    hello_seconds: float = HELLO_SECONDS,
) -> TcpComm:
    """Rank 0: wait for all others; raises RayhpcError at the deadline, which those that are connected get, too."""
    admission = _Admission(listener, secret, size, wait, hello_seconds)
    try:
        while not admission.complete:
            wait.report(admission.progress, every=0.0 if size <= _MOST_TOLD else 1.0)
            wait.name_missing(admission.absent)
            if wait.left <= 0:
                raise admission.timeout_error()
            admission.poll(min(_PAUSE, max(0.0, wait.left)))
        return admission.admit(payload)
    finally:
        admission.close()


class _Admission:
    """The ranks that are connected so far. A peer that does not prove that it knows the secret is rejected, and delays
    nobody.
    """

    def __init__(self, listener: socket.socket, secret: bytes, size: int, wait: Wait, hello_seconds: float) -> None:
        listener.setblocking(False)
        self._hello_seconds = hello_seconds
        self._listener, self._secret, self._size, self._wait = listener, secret, size, wait
        self._peers: list[_Peer] = []
        self._told = 0
        self._rejected: list[str] = []

    @property
    def _present(self) -> list[_Peer]:
        return [peer for peer in self._peers if peer.hello is not None]

    @property
    def complete(self) -> bool:
        """All ranks are connected."""
        return len(self._present) == self._size - 1

    @property
    def progress(self) -> str:
        """How many ranks are connected."""
        here = f"{len(self._present) + 1} of {self._size} ranks are here"
        return f"{here}; waiting {self._wait.seconds:.0f} s for the rest"

    def absent(self) -> str:
        """Who is not here, by number and by host where these are known, and who is."""
        missing = self._missing_ranks()
        many = f"{self._size - 1 - len(self._present)} of {self._size} ranks"
        who = f"rank {shortened(missing)}" if missing else many
        here = [self._wait.place, *(peer.hello.place for peer in self._present if peer.hello)]
        hosts = {place.rpartition(" ")[2] for place in here}
        empty = [host for host in self._wait.hosts if host.partition(".")[0] not in hosts]
        nobody = f"; nobody has come from {shortened(empty)}" if empty else ""
        return f"{who}; here: {shortened(here)}{nobody}"

    def _missing_ranks(self) -> list[str]:
        """The numbers of those that are missing; none where the ranks that are here have none."""
        named = {peer.hello.rank for peer in self._present if peer.hello}
        numbered = self._wait.place.startswith("rank ") and None not in named
        return [str(rank) for rank in range(1, self._size) if rank not in named] if numbered else []

    def poll(self, seconds: float) -> None:
        """Wait for connections and messages, and process them."""
        sources: list[socket.socket | Link] = [self._listener, *(peer.link for peer in self._peers)]
        ready = set(polling.readable(sources, seconds))
        for peer in [peer for peer in self._peers if peer.link in ready]:
            self._take_in(peer)
        if self._listener in ready:
            self._accept()
        for peer in [peer for peer in self._peers if peer.hello is None and time.monotonic() > peer.until]:
            self._reject(peer, f"it has not shown the secret within {self._hello_seconds:.0f} s")
        self._tell_progress()

    def _tell_progress(self) -> None:
        """Tell the ranks that are here how many they are."""
        present = self._present
        if len(present) != self._told and self._size <= _MOST_TOLD:
            self._told = len(present)
            for peer in present:
                peer.link.send(_Progress(len(present) + 1, self._size))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # a connection that was closed meanwhile
            connection, address = self._listener.accept()
            link = Link(connection, self._secret, tcp.HEAD, _HELLO_BYTES)
            until = time.monotonic() + self._hello_seconds
            self._peers.append(_Peer(link, str(address[0]).removeprefix("::ffff:"), until))
        unproven = [peer for peer in self._peers if peer.hello is None]
        for peer in unproven[: -max(_MOST_UNPROVEN, self._size)]:
            self._reject(peer, "too many have connected without showing the secret")

    def _take_in(self, peer: _Peer) -> None:
        """Process a hello; drop a peer that has closed its connection."""
        for message in peer.link.take():
            if peer.hello is None and isinstance(message, Hello):
                problem = self._problem(message)
                if problem:
                    peer.link.send(self._refusal(problem, message))
                    self._drop(peer)
                    return
                peer.hello = message
                peer.link.send(_Taken())
        if peer.link.lost and peer.hello is None:
            self._reject(peer, peer.link.lost)
        elif peer.link.lost:
            self._drop(peer)

    def _problem(self, hello: Hello) -> str:
        """Why this rank cannot be one of the launch; empty if it can."""
        if self.complete:
            return f"all {self._size} ranks are there already"
        if hello.rank is None:
            return ""
        if not 0 < hello.rank < self._size:
            return f"there is no rank {hello.rank} among {self._size}"
        twins = [peer.hello.place for peer in self._present if peer.hello and peer.hello.rank == hello.rank]
        return f"rank {hello.rank} is there already: {twins[0]}" if twins else ""

    def _refusal(self, problem: str, hello: Hello) -> Fault:
        step = "start as many processes as the launch has ranks, each with a number of its own"
        return Fault(problem, ExitCode.CONFIGURATION, hello.place, next_step=step)

    def _reject(self, peer: _Peer, why: str) -> None:
        """Drop a peer that has not shown the secret; the first few are reported: it may be a rank with an old one."""
        self._rejected.append(f"{peer.address} was rejected: {why}")
        if len(self._rejected) <= _MOST_REPORTED:
            self._wait.warn(self._rejected[-1])
        self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._peers.remove(peer)
        peer.link.close()

    def admit(self, payload: Options | None) -> TcpComm:
        """Give every peer its rank; a peer that has named none gets the next free one, first come first."""
        named = {peer.hello.rank: peer for peer in self._present if peer.hello and peer.hello.rank is not None}
        free = (rank for rank in range(1, self._size) if rank not in named)
        ranks = {**named, **{next(free): peer for peer in self._present if peer.hello and peer.hello.rank is None}}
        for rank, peer in ranks.items():
            peer.link.send(Welcome(rank, self._size, payload))
            self._peers.remove(peer)
        return TcpComm(0, self._size, {rank: ranks[rank].link for rank in sorted(ranks)})

    def timeout_error(self) -> RayhpcError:
        """The error at the deadline, which is sent to the ranks that are connected."""
        named = {peer.hello.rank for peer in self._present if peer.hello}
        lacking = [str(rank) for rank in range(1, self._size) if rank not in named]
        missing = f": rank {shortened(lacking)}" if named - {None} else ""
        come = [peer.hello.place for peer in self._present if peer.hello]
        evidence = [f"here: {shortened([self._wait.place, *come])}", *self._rejected[-_MOST_REPORTED:]]
        absent = self._size - 1 - len(come)
        error = self._wait.timeout_error(f"{absent} of {self._size} ranks have not come", evidence, missing)
        for peer in self._present:
            peer.link.send(error.fault)
        return error

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()
        for peer in self._peers:
            peer.link.close()


def join(find: Callable[[], Endpoint], hello: Hello, wait: Wait) -> tuple[TcpComm, Options | None]:
    """Any other rank: connect to rank 0 and wait for all; with rank 0's payload; raises RayhpcError as rank 0 does.

    find: where rank 0 is, asked anew for each try; raises NotYet while that cannot be known.
    """
    while True:
        try:
            link, messages = _connect(find(), hello)
            welcome, more = _wait_for_welcome(link, messages, wait)
            made = TcpComm(welcome.rank, welcome.size, {0: link})
            made.keep(0, more)
            return made, welcome.payload
        except NotYet as reason:
            wait.report(f"waiting {wait.seconds:.0f} s for rank 0: {reason}")
            if wait.left <= 0:
                raise wait.timeout_error("rank 0 has not come", [str(reason)]) from reason
        time.sleep(_PAUSE)


def _connect(endpoint: Endpoint, hello: Hello) -> tuple[Link, list[object]]:
    """A connection on which rank 0 has shown the secret, too, with its first messages; the first that answers."""
    reasons = []
    for host, port in endpoint.addresses:
        try:
            link = Link(socket.create_connection((host, port), _CONNECT_SECONDS), endpoint.secret, tcp.WORKER)
        except OSError as error:
            reasons.append(f"{host}:{port}: {error.strerror or error}")
            continue
        link.send(hello)
        messages = _first_messages(link)
        if messages:
            return link, messages
        link.close()
        reasons.append(f"{host}:{port}: {_why_not_ours(link)}")
    raise NotYet("; ".join(reasons))


def _first_messages(link: Link) -> list[object]:
    """The first messages, which only one who knows the secret can have sent; nothing if none come."""
    end = time.monotonic() + HELLO_SECONDS
    messages: list[object] = []
    while not messages and not link.lost and (left := end - time.monotonic()) > 0:
        polling.readable([link], left)
        messages = link.take()
    return messages


def _why_not_ours(link: Link) -> str:
    """Why the other end is no rank of this launch."""
    if link.greeted:
        return "rank 0 has another secret"
    return link.lost or f"what answers has said nothing in {HELLO_SECONDS:.0f} s"


def _wait_for_welcome(link: Link, messages: list[object], wait: Wait) -> tuple[Welcome, list[object]]:
    """The welcome, and what follows it; raises NotYet if the connection ends before, RayhpcError as rank 0 does."""
    try:
        while (welcome := _next_welcome(messages, wait)) is None:
            if link.lost:
                raise NotYet("it has closed the connection")
            if wait.left <= 0:
                raise wait.timeout_error("not all ranks have come", ["rank 0 is there, and waits for others"])
            polling.readable([link], min(_PAUSE, wait.left))
            messages = link.take()
    except (NotYet, RayhpcError):
        link.close()
        raise
    return welcome, messages


def _next_welcome(messages: list[object], wait: Wait) -> Welcome | None:
    """The welcome, if it is there: all before it is removed; raises RayhpcError with a fault that rank 0 has sent."""
    while messages:
        message = messages.pop(0)
        if isinstance(message, Fault):
            raise RayhpcError(message)
        if isinstance(message, Welcome):
            return message
        if isinstance(message, _Progress):
            wait.progress(f"{message.count} of {message.size} ranks are here")
    return None
