"""The shutdown: the directory, the logs within their limit, and which ranks have not answered."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

import pytest

from rayhpc.bootstrap import teardown
from rayhpc.bootstrap.teardown import LOGS_LIMIT, Leftovers, Timing, dismiss, stop_all, stop_order, stop_rank
from rayhpc.messages import Alive, Leave, Stop, Stopped
from rayhpc.processes import children
from tests.unit.making import assignment, cluster, node


class FakeComm:
    """Ranks that answer at once, but for those that are silent."""

    def __init__(self, size: int, silent: frozenset[int] = frozenset()) -> None:
        self.size = size
        self.silent = silent
        self.sent: list[tuple[int, Any]] = []
        self.mail: list[tuple[int, Any]] = []

    def send(self, to: int, message: object) -> None:
        self.sent.append((to, message))
        if to not in self.silent:
            self.mail += [(to, Alive()), (to, Stopped(to, 0))]

    def receive(self) -> tuple[int, Any] | None:
        return self.mail.pop(0) if self.mail else None


@pytest.fixture
def private(tmp_path: Path) -> Path:
    made = tmp_path / "rh-01234567-0"
    logs = made / "r" / "session_2026-01-31_23-59-59_123456_7" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_bytes(b"x" * 1000)
    (logs / "gcs_server.out").write_bytes(b"short")
    (made / "r" / "session_latest").symlink_to(logs.parent)
    return made


def stopped(private: Path, order: Stop) -> Stopped:
    return stop_rank(assignment(cluster([node(0, temp_dir=str(private))])), 0, None, order)


def test_the_private_directory_is_gone_and_the_logs_are_kept(private: Path) -> None:
    answer = stopped(private, Stop(True, 10**6))
    assert not private.exists()
    assert dict(answer.logs) == {"raylet.out": b"x" * 1000, "gcs_server.out": b"short"}
    assert answer.problems == ()


def test_logs_are_within_their_limit(private: Path) -> None:
    assert sum(len(content) for _, content in stopped(private, Stop(True, 100)).logs) <= 100


def test_unwanted_logs_are_left(private: Path) -> None:
    assert stopped(private, Stop(False, 10**6)).logs == ()
    assert not private.exists()


def test_an_idle_rank_has_nothing_to_stop() -> None:
    assigned = assignment(cluster([node(0)]), 5)
    assert assigned.node is None
    assert stop_rank(assigned, 5, None, Stop(True, 100)) == Stopped(5, 0)


def test_only_processes_of_this_rank_and_run_are_swept(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[tuple[str, frozenset[int]]] = []

    def sweep(marker: str, own: frozenset[int]) -> int:
        swept.append((marker, own))
        return 3

    monkeypatch.setattr(children, "sweep", sweep)
    assert stopped(private, Stop(False, 0)).killed == 3
    assert swept == [("RAYHPC_NODE=20261121-094408-01234567/0", frozenset({os.getpid()}))]


@pytest.mark.parametrize(("nodes", "limit"), [(1, LOGS_LIMIT), (4, LOGS_LIMIT // 4), (100000, 256 * 1024)])
def test_all_nodes_together_keep_to_one_limit(nodes: int, limit: int) -> None:
    assert stop_order(nodes, True) == Stop(True, limit)


def answers_of(
    ranks: FakeComm, timing: Timing, doubtful: frozenset[int] = frozenset(), asked: list[int] | None = None
) -> dict[int, Stopped]:
    """Rank 0 included, whose node is stopped once the others were asked: those go to `asked`."""

    def stop_node(_: Stop) -> Stopped:
        (asked if asked is not None else []).extend(to for to, _ in ranks.sent)
        return Stopped(0, 0)

    return stop_all(cast(Any, ranks), Stop(False, 0), Leftovers(None, None, doubtful, stop_node), timing)


def test_others_stop_while_we_do() -> None:
    asked: list[int] = []
    assert answers_of(FakeComm(3), Timing(), asked=asked) == {rank: Stopped(rank, 0) for rank in range(3)}
    assert asked == [1, 2]


def test_who_is_silent_is_missing_after_the_time() -> None:
    assert set(answers_of(FakeComm(4, frozenset({2})), Timing(stopped=0.05))) == {0, 1, 3}


def test_who_was_silent_before_is_not_waited_for_long() -> None:
    began = time.monotonic()
    silent = FakeComm(4, frozenset({2}))
    assert set(answers_of(silent, Timing(stopped=15.0, doubtful=0.05), frozenset({2, 3}))) == {0, 1, 3}
    assert [rank for rank, _ in silent.sent] == [1, 2, 3]
    assert time.monotonic() - began < 7


def test_nobody_to_stop_is_not_waited_for() -> None:
    assert answers_of(FakeComm(1), Timing()) == {0: Stopped(0, 0)}


def test_the_last_word() -> None:
    ranks = FakeComm(4)
    dismiss(cast(Any, ranks), [1, 3])
    assert ranks.sent == [(1, Leave()), (3, Leave())]


def test_ending_no_child_is_no_problem() -> None:
    assert teardown.end_child(None) == []
