"""The connection without MPI: whole messages in order, from nobody but those who know the secret; nobody blocks."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from rayhpc.ranks import tcp
from rayhpc.ranks.tcp import HEAD, WORKER, Link, TcpComm
from tests.launch import until

SECRET = b"s" * 64
MB = 2**20


def sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    near, far = sockets()
    links = Link(near, SECRET, HEAD), Link(far, SECRET, WORKER)
    yield links
    for link in links:
        link.close()


def collect(link: Link, count: int, *others: Link) -> list[object]:
    """So many messages of a link, while the others send what they have."""
    found: list[object] = []

    def come() -> bool:
        for other in others:
            other.take()
            other.flush()
        found.extend(link.take())
        return len(found) >= count

    assert until(come, 30), f"{len(found)} of {count}; lost: {link.lost!r}"
    return found


def test_messages_arrive_whole_and_in_order_both_ways(pair: tuple[Link, Link]) -> None:
    head, worker = pair
    large = os.urandom(5 * MB)
    for number in range(50):
        head.send((number, None))
        worker.send({"number": number})
    worker.send(large)
    assert collect(worker, 50, head) == [(number, None) for number in range(50)]
    assert collect(head, 51, worker) == [*({"number": number} for number in range(50)), large]


def test_what_was_sent_before_the_end_still_arrives(pair: tuple[Link, Link]) -> None:
    head, worker = pair
    collect_greetings(head, worker)
    head.send("last words")
    head.close()
    assert collect(worker, 1) == ["last words"]
    assert until(lambda: worker.take() == [] and bool(worker.lost), 5)


def collect_greetings(*links: Link) -> None:
    for link in links:
        assert until(lambda link=link: link.take() == [] and link.greeted, 5)  # type: ignore[misc]


def test_a_slow_reader_holds_up_nobody(pair: tuple[Link, Link]) -> None:
    head, worker = pair
    collect_greetings(head, worker)
    began = time.monotonic()
    for number in range(60):
        head.send((number, b"x" * MB))
    assert time.monotonic() - began < 20  # a blocking send would wait for ever
    assert not head.flush()
    assert [number for number, _ in collect(worker, 60, head)] == list(range(60))  # type: ignore[attr-defined]
    assert head.flush()


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.file, "w")


def frame(payload: bytes, mark: bytes = b"m" * 32) -> bytes:
    return struct.pack("!Q", len(payload)) + mark + payload


GREETING = b"rayhpc\x00\x01" + b"n" * 32
STRANGERS = {
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "half a greeting, then garbage": GREETING[:6] + b"?",
    "no mark": GREETING + frame(b"{bomb}"),
    "a length beyond reason": GREETING + struct.pack("!Q", 2**63) + b"m" * 32,
}


@pytest.mark.parametrize("words", STRANGERS.values(), ids=STRANGERS)
def test_nothing_of_a_stranger_is_unpickled(words: bytes, tmp_path: object) -> None:
    near, far = sockets()
    link = Link(near, SECRET, HEAD)
    mark = f"{tmp_path}/unpickled"
    bomb = pickle.dumps(Bomb(mark))
    far.sendall(GREETING + frame(bomb) if b"{bomb}" in words else words)
    assert until(lambda: link.take() == [] and bool(link.lost), 5)
    assert not os.path.exists(mark)  # noqa: PTH110
    link.close()
    far.close()


def test_a_bomb_with_the_secret_would_go_off(pair: tuple[Link, Link], tmp_path: object) -> None:
    """The test above can fail."""
    head, worker = pair
    worker.send(Bomb(f"{tmp_path}/unpickled"))
    (file,) = collect(head, 1, worker)
    file.close()  # type: ignore[attr-defined]
    assert os.path.exists(f"{tmp_path}/unpickled")  # noqa: PTH110


@pytest.mark.parametrize(
    ("secret", "role"), [(b"t" * 64, WORKER), (SECRET, HEAD)], ids=["another secret", "the same role"]
)
def test_who_is_not_the_other_end_is_refused(secret: bytes, role: bytes) -> None:
    near, far = sockets()
    links = Link(near, SECRET, HEAD), Link(far, secret, role)
    for link in links:
        link.send("me")
    assert until(lambda: [link.take() for link in links] == [[], []] and all(link.lost for link in links), 5)
    for link in links:
        assert link.lost == "the secret is another one"
        link.close()


def test_one_who_repeats_our_own_words_is_refused() -> None:
    near, far = sockets()
    link = Link(near, SECRET, HEAD)
    link.send("me")
    far.setblocking(False)

    def echo() -> bool:
        with contextlib.suppress(BlockingIOError):
            far.send(far.recv(4096))
        assert link.take() == []
        return bool(link.lost)

    assert until(echo, 5)
    link.close()
    far.close()


def test_recorded_words_are_worth_nothing_in_another_connection(pair: tuple[Link, Link]) -> None:
    near, far = sockets()
    middle, end = sockets()
    head, worker = Link(near, SECRET, HEAD), Link(end, SECRET, WORKER)
    recorded = b""
    for connection in (far, middle):
        connection.setblocking(False)
    worker.send("start it")
    found: list[object] = []

    def relay() -> bool:
        nonlocal recorded
        with contextlib.suppress(BlockingIOError):
            middle.sendall(far.recv(4096))
        worker.take()
        with contextlib.suppress(BlockingIOError):
            recorded += (words := middle.recv(4096))
            far.sendall(words)
        found.extend(head.take())
        return bool(found)

    assert until(relay, 5)
    assert found == ["start it"]
    again, other = sockets()
    fresh = Link(again, SECRET, HEAD)
    other.sendall(recorded)
    assert until(lambda: fresh.take() == [] and fresh.lost == "the secret is another one", 5)
    for thing in (far, middle, head, worker, fresh, other):
        thing.close()


def make_comms(size: int, leave_seconds: float = tcp.LEAVE_SECONDS) -> list[TcpComm]:
    ends = {rank: sockets() for rank in range(1, size)}
    links = {rank: Link(near, SECRET, HEAD) for rank, (near, _) in ends.items()}
    head = TcpComm(0, size, links, leave_seconds)
    return [head, *(TcpComm(rank, size, {0: Link(far, SECRET, WORKER)}) for rank, (_, far) in ends.items())]


@pytest.fixture
def comms() -> Iterator[list[TcpComm]]:
    made = make_comms(3)
    yield made
    for one in made:
        one._close()


def mail(to: TcpComm, *others: TcpComm) -> tuple[int, object]:
    found: list[tuple[int, object]] = []

    def come() -> bool:
        found.extend(filter(None, [to.receive()]))
        for other in others:
            assert other.receive() is None
        return bool(found)

    assert until(come, 10), to.gone
    return found[0]


def test_mail_goes_through_rank_0_only(comms: list[TcpComm]) -> None:
    head, one, two = comms
    one.send(0, "from one")
    assert mail(head, one, two) == (1, "from one")
    two.send(0, "from two")
    assert mail(head, one, two) == (2, "from two")
    head.send(2, "to two")
    assert mail(two, head, one) == (0, "to two")
    with pytest.raises(ValueError, match="no connection to rank 2"):
        one.send(2, "aside")


@pytest.mark.parametrize("lost", [1, 0], ids=["a follower", "rank 0"])
def test_a_lost_rank_is_known_at_once_and_after_its_last_words(comms: list[TcpComm], lost: int) -> None:
    victim, witness = comms[lost], comms[1 - lost]
    victim.send(witness.rank, "last words")
    assert mail(witness, victim) == (lost, "last words")
    victim.send(witness.rank, "really")
    victim._close()
    assert mail(witness) == (lost, "really")
    assert until(lambda: witness.receive() is None and witness.gone == {lost}, 5)
    for _ in range(3):
        witness.send(lost, b"x" * MB)
        assert witness.receive() is None


def test_one_that_is_lost_or_slow_does_not_hold_up_the_others(comms: list[TcpComm]) -> None:
    head, one, two = comms
    assert until(lambda: not any(comm.receive() for comm in comms) and all(l.greeted for l in head._links.values()), 5)  # noqa: E741
    for _ in range(30):
        head.send(1, b"x" * MB)
    head.send(2, "quick")
    assert mail(two, head) == (0, "quick")
    one._close()
    assert until(lambda: head.receive() is None and head.gone == {1}, 5)
    head.send(2, "quick again")
    assert mail(two, head) == (0, "quick again")


def test_one_that_hangs_is_not_waited_for_at_the_end() -> None:
    head, hanging = make_comms(2, leave_seconds=0.3)
    began = time.monotonic()
    head.leave()
    assert 0.25 < time.monotonic() - began < 10
    hanging._close()


def test_a_rank_writes_to_itself() -> None:
    alone = TcpComm(0, 2, {})
    alone.send(0, "news")
    assert (alone.receive(), alone.receive()) == ((0, "news"), None)
