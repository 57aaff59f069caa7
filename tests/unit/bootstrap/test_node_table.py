"""The node table: rank 0 asks, the head's `ray start` answers at a socket. Ray is not imported."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.inside_ray import node_table_server
from rayhpc.inside_ray.names import RANK_LABEL
from rayhpc.model import AliveNode
from tests.unit.making import until


def row(rank: str | None, state: int = 0, **total: float) -> SimpleNamespace:
    labels = {} if rank is None else {RANK_LABEL: rank}
    return SimpleNamespace(
        labels=labels,
        resources_total=total,
        node_manager_address="10.0.0.1",
        state=state,
        node_id=b"\x0a",
        metrics_export_port=8080,
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


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as made:  # pytest's own are longer than a socket's path may be
        yield f"{made}/nodes"


Open = Callable[..., NodeTable]


@pytest.fixture
def ask(path: str) -> Iterator[Open]:
    made: list[NodeTable] = []

    def start(address: str = "127.0.0.1:1", where: str = path) -> NodeTable:
        made.append(NodeTable(address, where, every=0.001))
        made[-1].start()
        return made[-1]

    yield start
    for entry in made:
        entry.close()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, ask: Open, path: str) -> Open:
    """A table whose GCS says these answers; without any nobody listens at its port."""

    def start(*answers: Any) -> NodeTable:
        script, where = Script(*answers), f"{path}{len(os.listdir(Path(path).parent))}"
        monkeypatch.setattr(node_table_server, "_client_class", lambda: lambda **_: script)
        monkeypatch.setattr(node_table_server, "_listens", lambda _: bool(answers))
        node_table_server.answer(where)
        return ask(where=where)

    return start


def test_before_the_first_answer_nothing_is_known(table: Open) -> None:
    assert table().nodes is None


@pytest.mark.parametrize(
    ("label", "rank"), [("3", 3), ("0", 0), (None, None), ("", None), ("three", None), ("-1", None)]
)
def test_a_row_is_of_a_rank_or_of_a_stranger(table: Open, label: str | None, rank: int | None) -> None:
    found = table([row(label, CPU=2.0, GPU=1.0)])
    assert until(lambda: found.nodes is not None)
    assert found.nodes == (AliveNode(rank, "10.0.0.1", 2.0, 1.0, "0a", 8080),)


def test_a_guest_is_known_by_its_label_and_of_a_joined_run_its_own_are_looked_at(table: Open) -> None:
    rows = [row("0"), row("20261121-01234567.1"), row("20261121-89abcdef.1")]
    found = table(rows)
    assert until(lambda: found.nodes is not None)
    assert [(node.rank, node.guest) for node in found.nodes or ()] == [
        (0, ""), (None, "20261121-01234567.1"), (None, "20261121-89abcdef.1"),
    ]  # fmt: skip
    own = NodeTable("127.0.0.1:1", "", joined="20261121-01234567")
    labels = ("1", "20261121-01234567.1", "20261121-89abcdef.1")
    own._take({"rows": [[label, "10.0.0.1", 1, 0, "0a"] for label in labels]})
    assert [(node.rank, node.guest) for node in own.nodes or ()] == [(1, "")]


def test_the_order_to_drain_reaches_ray_until_it_is_taken(table: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[tuple[int, list[str]]] = []

    def drain(_: Any, __: str, until: int, nodes: list[str]) -> None:
        orders.append((until, nodes))
        if len(orders) == 1:
            raise RuntimeError("busy")

    monkeypatch.setattr(node_table_server.Table, "_drain", drain)
    found = table([row("0")])
    assert until(lambda: found.nodes is not None)
    found.drain(1_800_000_000.0)
    assert until(lambda: found.drained)
    assert orders == [(1_800_000_000_000, ["0a"])] * 2
    assert found.last_error == "RuntimeError: busy"


def test_the_dead_are_left_out_and_no_resource_is_zero(table: Open) -> None:
    found = table([row("0"), row("1", state=1, CPU=4.0)])
    assert until(lambda: found.nodes is not None)
    assert found.nodes == (AliveNode(0, "10.0.0.1", 0.0, 0.0, "0a", 8080),)


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


# The head is started again since somebody had taken its port: that somebody may be a GCS, and would answer for ever.
def test_another_head_is_asked_by_another_client(monkeypatch: pytest.MonkeyPatch, ask: Open, path: str) -> None:
    heads = {"127.0.0.1:1": Script([]), "127.0.0.1:2": Script([row("0")])}
    monkeypatch.setattr(node_table_server, "_client_class", lambda: lambda address: heads[address])
    monkeypatch.setattr(node_table_server, "_listens", lambda _: True)
    node_table_server.answer(path)
    found = ask()
    assert until(lambda: found.nodes == ())
    found.move("127.0.0.1:2")
    assert until(lambda: bool(found.nodes), 1.0)


# Ray's client would wait for 40 s at a closed port; and a head that is started again has another cluster id.
def test_a_head_that_has_gone_is_not_asked_and_its_successor_gets_a_client_of_its_own(
    monkeypatch: pytest.MonkeyPatch, ask: Open, path: str
) -> None:
    made: list[Script] = []
    listening = threading.Event()
    listening.set()

    def connect(address: str) -> Script:
        made.append(Script([row("0")] if made else []))
        return made[-1]

    monkeypatch.setattr(node_table_server, "_client_class", lambda: connect)
    monkeypatch.setattr(node_table_server, "_listens", lambda _: listening.is_set())
    node_table_server.answer(path)
    found = ask()
    assert until(lambda: found.nodes == ())
    listening.clear()
    assert until(lambda: found.silence > 0.05)
    listening.set()
    assert until(lambda: found.nodes != (), 1.0)
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
    monkeypatch.setattr(node_table_server, "_listens", lambda _: listens)
    asked = found.silence
    assert until(lambda: found.closed is closed and found.silence != asked)


def test_a_port_is_open_or_refuses() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    assert node_table_server._listens(address) is True
    server.close()
    assert node_table_server._listens(address) is False


def test_ipv6_addresses_are_in_brackets() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert node_table_server._listens(f"[::1]:{server.getsockname()[1]}") is True


def test_ray_start_is_waited_for_and_said_to_be_missing(ask: Open, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask()
    assert until(lambda: bool(found.last_error))
    assert found.last_error == f"`ray start` does not answer at {path}: No such file or directory"
    monkeypatch.setattr(node_table_server, "_client_class", lambda: lambda **_: Script([row("0")]))
    monkeypatch.setattr(node_table_server, "_listens", lambda _: True)
    node_table_server.answer(path)
    assert until(lambda: found.nodes is not None)


def test_a_ray_start_that_ends_is_followed_by_another(ask: Open, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves its socket's name behind, and a connection that ends in the middle of an answer."""
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(path)
        first.listen()
        found = ask()
        caller, _ = first.accept()
        with caller:
            assert caller.recv(100) == b"127.0.0.1:1\n"
            caller.sendall(b"{")
    assert until(lambda: "Connection refused" in found.last_error)
    monkeypatch.setattr(node_table_server, "_client_class", lambda: lambda **_: Script([row("0")]))
    monkeypatch.setattr(node_table_server, "_listens", lambda _: True)
    node_table_server.answer(path)
    assert until(lambda: found.nodes is not None)


def test_one_caller_after_the_other_is_answered(table: Open, ask: Open, path: str) -> None:
    first = table([row("0")])
    assert until(lambda: first.nodes is not None)
    first.close()
    second = ask(where=f"{path}0")
    assert until(lambda: second.nodes is not None)
