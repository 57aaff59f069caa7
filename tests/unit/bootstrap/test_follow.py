"""When a rank that follows rank 0 starts its node. Its clock is ours, and no Ray is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from rayhpc.bootstrap import follow
from rayhpc.bootstrap.follow import Follower, join_delay
from rayhpc.messages import EndNode, Milestone, StartNode, Stop
from tests.unit.making import assignment, cluster

STOP = Stop(False, 0)


@dataclass
class FakeComm:
    rank: int
    size: int
    sent: list[Any] = field(default_factory=list)
    gone: frozenset[int] = frozenset()

    def send(self, _: int, message: object) -> None:
        self.sent.append(message)


@dataclass
class FakeWatch:
    """A batch of mail for each look; looks are half a second apart."""

    batches: list[list[Any]]
    now: float = 1000.0

    def wait(self) -> list[tuple[int, Any]]:
        self.now += 0.5
        return [(0, mail) for mail in self.batches.pop(0)]

    def add(self, *_: Any) -> None:
        pass

    def slow_down(self) -> None:
        pass

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@dataclass
class FakeNode:
    address: str = ""
    child: Any = None

    def start(self, _: int, address: str) -> None:
        self.address = address


def starts(monkeypatch: pytest.MonkeyPatch, rank: int, nodes: int, batches: list[list[Any]]) -> tuple[list[float], str]:
    """Seconds from the first look at which a rank said that it starts its node, and the head's address it used."""
    watch, comm, node = FakeWatch(batches), FakeComm(rank, nodes), FakeNode()
    monkeypatch.setattr(follow, "time", watch)
    assigned = assignment(cluster(nodes), rank)
    assert Follower(cast(Any, comm), assigned, cast(Any, node), cast(Any, watch)).follow() == STOP
    told = [mail.at - 1000.5 for mail in comm.sent if isinstance(mail, Milestone) and mail.stage == "start"]
    return told, node.address


def test_a_worker_starts_when_it_is_told_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert starts(monkeypatch, 2, 3, [[], [StartNode("h:1")], [], [STOP]]) == ([0.5], "h:1")


def test_workers_of_a_large_cluster_start_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = [[StartNode("h:1")], *([[]] * 8), [STOP]]
    assert starts(monkeypatch, 1, 1000, list(mail)) == ([0.5], "h:1")
    assert starts(monkeypatch, 999, 1000, list(mail)) == ([2.0], "h:1")


def test_who_is_told_to_stop_before_its_turn_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert starts(monkeypatch, 999, 1000, [[StartNode("h:1")], [], [STOP]]) == ([], "")


@pytest.mark.parametrize(("nodes", "last"), [(2, 0.0), (500, 0.0), (1000, 1.998), (10_000, 19.998)])
def test_the_last_to_join(nodes: int, last: float) -> None:
    assert join_delay(nodes - 1, nodes) == pytest.approx(last)


@dataclass
class StartedNode(FakeNode):
    ends: int = 0

    def end(self) -> None:
        self.ends += 1


def test_a_node_whose_place_was_taken_is_ended_and_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, node = FakeWatch([[StartNode("h:1"), EndNode()], [], [STOP]]), StartedNode()
    monkeypatch.setattr(follow, "time", watch)
    assigned = assignment(cluster(1000), 999)
    follower = Follower(cast(Any, FakeComm(999, 1000)), assigned, cast(Any, node), cast(Any, watch))
    assert follower.follow() == STOP
    assert (node.ends, node.address) == (1, "")
