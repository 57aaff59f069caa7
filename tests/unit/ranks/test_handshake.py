"""Ranks find each other over real sockets: either first, with a deadline, and no stranger is in the way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import network
from rayhpc.options import Options
from rayhpc.ranks import handshake
from rayhpc.ranks.handshake import Endpoint, Hello, NotYet, Wait, gather, join
from rayhpc.ranks.tcp import WORKER, Link, TcpComm
from tests.launch import until

SECRET = b"s" * 64
STEP = "start the others"
PAYLOAD = Options(num_cpus=3)


class Room:
    """Rank 0 and others in threads: what each has told, and how each has ended."""

    def __init__(self) -> None:
        self.listener = network.server()
        self.address = ("127.0.0.1", self.listener.getsockname()[1])
        self.told: list[str] = []
        self.results: dict[str, Any] = {}
        self.threads: list[threading.Thread] = []

    def do(self, name: str, work: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                self.results[name] = work()
            except RayhpcError as error:
                self.results[name] = error.fault

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def gather(self, size: int, seconds: float = 20.0, hello_seconds: float = handshake.HELLO_SECONDS) -> None:
        wait = Wait(seconds, self.told.append, "rank 0 on h0", STEP)
        self.do("head", lambda: gather(self.listener, SECRET, size, PAYLOAD, wait, hello_seconds))

    def join(self, name: str, rank: int | None, seconds: float = 20.0, secret: bytes = SECRET) -> None:
        wait = Wait(seconds, self.told.append, name, STEP)
        endpoint = Endpoint((self.address,), secret)
        self.do(name, lambda: join(lambda: endpoint, Hello(rank, name), wait))

    def ended(self) -> dict[str, Any]:
        for thread in self.threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self.threads), self.told
        return self.results

    def come(self, text: str) -> None:
        assert until(lambda: any(text in line for line in self.told), 15), self.told

    def connect(self, words: bytes = b"") -> socket.socket:
        stranger = socket.create_connection(self.address)
        stranger.sendall(words)
        return stranger

    def close(self) -> None:
        self.listener.close()
        for result in self.results.values():
            comm = result[0] if isinstance(result, tuple) else result
            if isinstance(comm, TcpComm):
                comm._close()


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


def test_ranks_that_know_their_numbers_keep_them(room: Room) -> None:
    for rank in (3, 1, 2):
        room.join(f"h{rank}", rank)
    room.gather(4)
    results = room.ended()
    joined = {name: results[name] for name in ("h1", "h2", "h3")}
    ranks = [(comm.rank, comm.size, payload) for comm, payload in joined.values()]
    assert ranks == [(n, 4, PAYLOAD) for n in (1, 2, 3)]
    for rank in (1, 2, 3):
        results[f"h{rank}"][0].send(0, f"I am h{rank}")
    words: dict[int, Any] = {}
    assert until(lambda: words.update(filter(None, [results["head"].receive()])) or len(words) == 3, 10)  # type: ignore[func-returns-value]
    assert words == {rank: f"I am h{rank}" for rank in (1, 2, 3)}


def test_others_get_numbers_as_they_come(room: Room) -> None:
    room.gather(4)
    for count, name in enumerate(("first", "second", "third"), 2):
        room.join(name, None)
        if count < 4:
            room.come(f"{count} of 4 ranks are here; waiting 20 s")
    results = room.ended()
    assert [results[name][0].rank for name in ("first", "second", "third")] == [1, 2, 3]
    assert STEP in room.told


def test_of_many_ranks_rank_0_alone_says_how_many_are_here(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others learn at once that rank 0 has the secret, and no more."""
    monkeypatch.setattr(handshake, "_MOST_TOLD", 2)
    room.gather(3)
    first = Link(room.connect(), SECRET, WORKER)
    first.send(Hello(1, "first"))
    assert len(handshake._first_messages(first)) == 1
    room.join("second", 2)
    assert room.ended()["second"][0].rank == 2
    first.close()
    assert not [line for line in room.told if line.endswith("ranks are here")]


def test_peers_without_the_secret_are_rejected_and_reported(room: Room) -> None:
    """One says nothing, one garbage, one has another secret: the rank that comes after them is taken all the same."""
    room.gather(2, hello_seconds=1.0)
    silent, garbage = room.connect(), room.connect(b"SSH-2.0-x\r\n")
    guess = Link(room.connect(), b"t" * 64, WORKER)
    guess.send(Hello(None, "guess"))
    assert until(lambda: guess.take() == [] and bool(guess.lost), 10)
    for why in ("what answers is not rayhpc", "the secret is another one", "has not shown the secret within 1 s"):
        room.come(f"WARNING: 127.0.0.1 was rejected: {why}" if "within" not in why else why)
    room.join("worker", None)
    assert room.ended()["worker"][0].rank == 1
    for connection in (silent, garbage, guess):
        connection.close()


def test_a_crowd_that_says_nothing_holds_up_nobody(room: Room) -> None:
    room.gather(2)
    crowd = [room.connect() for _ in range(handshake._MOST_UNPROVEN + 40)]
    began = time.monotonic()
    room.join("worker", 1)
    assert room.ended()["worker"][0].rank == 1
    assert time.monotonic() - began < handshake.HELLO_SECONDS
    assert sum("was rejected" in line for line in room.told) <= handshake._MOST_REPORTED
    for connection in crowd:
        connection.close()


def test_who_is_missing_is_named_to_all(room: Room) -> None:
    room.gather(4, seconds=1.5)
    room.join("rank 2 on h2", 2)
    results = room.ended()
    fault = results["head"]
    assert fault == results["rank 2 on h2"]
    assert fault.what == "2 of 4 ranks have not come within 2 s: rank 1, 3"
    assert (fault.code, fault.where, fault.next_step) == (ExitCode.NOT_READY, "rank 0 on h0", STEP)
    assert fault.evidence == ("here: rank 0 on h0, rank 2 on h2",)


def test_a_rank_without_rank_0_gives_up(room: Room) -> None:
    room.listener.close()
    room.join("worker", None, seconds=0.5)
    fault = room.ended()["worker"]
    assert (fault.what, fault.code) == ("rank 0 has not come within 0 s", ExitCode.NOT_READY)
    assert "Connection refused" in fault.evidence[0]


@pytest.mark.parametrize(
    ("second", "problem"), [(1, "rank 1 is there already: first"), (7, "there is no rank 7 among 3")]
)
def test_a_number_that_cannot_be_is_refused(room: Room, second: int, problem: str) -> None:
    room.gather(3, seconds=4)
    room.join("first", 1)
    room.come("2 of 3 ranks are here")
    room.join("second", second)
    assert until(lambda: "second" in room.results, 10)
    assert (room.results["second"].what, room.results["second"].code) == (problem, ExitCode.CONFIGURATION)
    assert room.ended()["head"].what.startswith("1 of 3 ranks have not come within 4 s: rank 2")


def test_a_rank_that_goes_again_is_not_counted(room: Room) -> None:
    room.gather(3)
    gone = Link(room.connect(), SECRET, WORKER)
    gone.send(Hello(None, "gone"))
    assert until(lambda: bool(gone.take()), 10)
    gone.close()
    for name in ("first", "second"):
        room.join(name, None)
    results = room.ended()
    assert {results["first"][0].rank, results["second"][0].rank} == {1, 2}


def test_a_worker_finds_the_rank_0_that_comes_after_one_that_has_gone(room: Room) -> None:
    """Its address may be another one then: it is looked up for each try."""
    endpoints = [NotYet("no file"), Endpoint((room.address,), b"old" * 32)]
    wait = Wait(30.0, room.told.append, "worker", STEP)

    def find() -> Endpoint:
        endpoint = endpoints.pop(0) if endpoints else Endpoint((room.address,), SECRET)
        if isinstance(endpoint, NotYet):
            raise endpoint
        return endpoint

    room.gather(2)
    room.do("worker", lambda: join(find, Hello(None, "worker"), wait))
    assert room.ended()["worker"][0].rank == 1
    assert "waiting 30 s for rank 0: no file" in room.told
    assert any(line.endswith("rank 0 has another secret") for line in room.told)


def test_what_listens_there_is_something_else(room: Room) -> None:
    room.join("worker", None, seconds=1.0)
    other = room.listener.accept()[0]
    other.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    room.come("what answers is not rayhpc")
    room.listener.close()
    other.close()
    assert room.ended()["worker"].code == ExitCode.NOT_READY


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (2, "rank 1, 3; here: rank 0 on h0, rank 2 on h2; nobody has come from h1.site, h3"),
        (None, "2 of 4 ranks; here: rank 0 on h0, rank 2 on h2; nobody has come from h1.site, h3"),
    ],
)
def test_who_is_missing_is_told_once_the_wait_is_long(
    room: Room, monkeypatch: pytest.MonkeyPatch, rank: int | None, words: str
) -> None:
    monkeypatch.setattr(handshake, "LATE_SECONDS", 2.0)
    wait = Wait(4.0, room.told.append, "rank 0 on h0", STEP, 60.0, ("h0", "h1.site", "h2", "h3"))
    room.do("head", lambda: gather(room.listener, SECRET, 4, PAYLOAD, wait))
    room.join("rank 2 on h2", rank)
    room.ended()
    assert [line for line in room.told if line.startswith("not here")] == [f"not here after 2 s: {words}"]
