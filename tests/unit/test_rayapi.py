"""The node table: what is read from Ray's rows, and that no error of Ray's ends the asking. Ray is not imported."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rayhpc import rayapi
from rayhpc.model import AliveNode
from rayhpc.rayapi import NodeTable
from rayhpc.rayargs import RANK_LABEL

from .making import until


def row(rank: str | None, state: int = 0, **total: float) -> SimpleNamespace:
    labels = {} if rank is None else {RANK_LABEL: rank}
    return SimpleNamespace(
        labels=labels, resources_total=total, node_manager_address="10.0.0.1", state=state, node_id=b"\x0a"
    )


class Script:
    """A client of the GCS that answers in turn; an exception is raised. The last answer is repeated."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def get_all_node_info(self, **_: float) -> dict[int, SimpleNamespace]:
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return dict(enumerate(answer))


Open = Callable[..., NodeTable]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    made: list[NodeTable] = []

    def start(*answers: Any, environment: dict[str, str] | None = None) -> NodeTable:
        script = Script(*answers)
        monkeypatch.setattr(rayapi, "_client_class", lambda: lambda **_: script)
        monkeypatch.setattr(rayapi, "_listens", lambda _: bool(answers))
        made.append(NodeTable(("127.0.0.1", 1), environment or {}, every=0.001))
        return made[-1]

    yield start
    for entry in made:
        entry.close()
        entry.join()


def test_before_the_first_answer_nothing_is_known(table: Open) -> None:
    assert table().nodes is None


@pytest.mark.parametrize(
    ("label", "rank"), [("3", 3), ("0", 0), (None, None), ("", None), ("three", None), ("-1", None)]
)
def test_a_row_is_of_a_rank_or_of_a_stranger(table: Open, label: str | None, rank: int | None) -> None:
    found = table([row(label, CPU=2.0, GPU=1.0)])
    assert until(lambda: found.nodes is not None)
    assert found.nodes == (AliveNode(rank, "10.0.0.1", 2.0, 1.0, "0a"),)


def test_the_dead_are_left_out_and_no_resource_is_zero(table: Open) -> None:
    found = table([row("0"), row("1", state=1, CPU=4.0)])
    assert until(lambda: found.nodes is not None)
    assert found.nodes == (AliveNode(0, "10.0.0.1", 0.0, 0.0, "0a"),)


def test_an_error_is_remembered_and_the_table_asked_again(table: Open) -> None:
    found = table(RuntimeError("unavailable"), [row("0")])
    assert until(lambda: found.nodes is not None)
    assert found.last_error == "RuntimeError: unavailable"


def test_silence_grows_until_an_answer_comes(table: Open) -> None:
    quiet = table(RuntimeError("x"))
    assert until(lambda: quiet.silence > 0.05)
    assert quiet.nodes is None
    talking = table([row("0")])
    assert until(lambda: talking.nodes is not None and talking.silence < 0.05)


def test_the_token_holds_for_the_process(table: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    table(environment={"RAY_AUTH_TOKEN_PATH": "/tmp/token"})
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/tmp/token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")  # so that monkeypatch takes it away


# The head is started again since somebody had taken its port: that somebody may be a GCS, and would answer for ever.
def test_another_head_is_asked_by_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {"127.0.0.1:1": Script([]), "127.0.0.1:2": Script([row("0")])}
    monkeypatch.setattr(rayapi, "_client_class", lambda: lambda address: heads[address])
    monkeypatch.setattr(rayapi, "_listens", lambda _: True)
    found = NodeTable(("127.0.0.1", 1), {}, every=0.001)
    try:
        assert until(lambda: found.nodes == ())
        found.move(("127.0.0.1", 2))
        assert until(lambda: found.nodes != (), 1.0)
    finally:
        found.close()
        found.join()


# Ray's client would wait for 40 s at a closed port; and a head that is started again has another cluster id.
def test_a_head_that_has_gone_is_not_asked_and_its_successor_gets_a_client_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Script] = []
    listening = threading.Event()
    listening.set()

    def connect(address: str) -> Script:
        made.append(Script([row("0")] if made else []))
        return made[-1]

    monkeypatch.setattr(rayapi, "_client_class", lambda: connect)
    monkeypatch.setattr(rayapi, "_listens", lambda _: listening.is_set())
    found = NodeTable(("127.0.0.1", 1), {}, every=0.001)
    try:
        assert until(lambda: found.nodes == ())
        listening.clear()
        assert until(lambda: found.silence > 0.05)
        listening.set()
        assert until(lambda: found.nodes != (), 1.0)
    finally:
        found.close()
        found.join()
    assert len(made) == 2


@pytest.mark.parametrize(("listens", "closed"), [(True, False), (False, True), (None, False)])
def test_only_a_port_that_has_answered_and_refuses_is_closed(
    table: Open, monkeypatch: pytest.MonkeyPatch, listens: bool | None, closed: bool
) -> None:
    silent = table()
    assert until(lambda: silent.silence > 0.02)
    assert not silent.closed
    found = table([row("0")])
    assert until(lambda: found.nodes is not None)
    monkeypatch.setattr(rayapi, "_listens", lambda _: listens)
    asked = found.silence
    assert until(lambda: found.closed is closed and found.silence != asked)


def test_a_port_is_open_or_refuses() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    assert rayapi._listens(address) is True
    server.close()
    assert rayapi._listens(address) is False
