"""Which hosts wait as spares, and how one takes the place of a node that is late or lost. The clock is ours."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from rayhpc.bootstrap import spares
from rayhpc.bootstrap.lost_nodes import Roster
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.messages import EndNode, NodeDead, NodeEnded, RankSilent, RestartNode, SignalArrived, StartNode
from rayhpc.model import AliveNode, Gpus
from rayhpc.options import Options
from tests.unit.bootstrap.test_supervise import TERM, Clock, Stage, clock  # noqa: F401 - a fixture
from tests.unit.making import cluster, node, rank_resources

TIMEOUT = 120.0


def ranks_of(nodes: Any) -> list[int]:
    return [entry.rank for entry in nodes]


# Who waits.


@pytest.mark.parametrize(
    ("hosts", "wanted", "starting", "waiting"),
    [
        ("abc", 0, [0, 1, 2], []),
        ("abc", 1, [0, 1], [2]),
        ("aabbcc", 1, [0, 1, 2, 3], [4, 5]),
        ("abcabc", 1, [0, 1, 3, 4], [2, 5]),  # ranks dealt out over the hosts
        ("abc", 2, [0], [1, 2]),
    ],
)
def test_the_last_hosts_wait_with_all_their_ranks(
    hosts: str, wanted: int, starting: list[int], waiting: list[int]
) -> None:
    found = [rank_resources(rank, host) for rank, host in enumerate(hosts)]
    nodes = tuple(node(rank, host) for rank, host in enumerate(hosts))
    first, second = spares.set_aside(found, nodes, wanted)
    assert (ranks_of(first), ranks_of(second)) == (starting, waiting)


def test_one_node_a_host_counts_hosts() -> None:
    found = [rank_resources(rank, host) for rank, host in enumerate("aabb")]
    first, second = spares.set_aside(found, (node(0, "a"), node(2, "b")), 1)
    assert (ranks_of(first), ranks_of(second)) == ([0], [2])


@pytest.mark.parametrize(
    ("hosts", "wanted", "words"),
    [
        ("a", 1, "--spares 1, but there is 1 host"),
        ("aaa", 1, "--spares 1, but there is 1 host"),
        ("abc", 3, "--spares 3, but there are 3 hosts"),
        ("aab", 1, "a spare has fewer ranks than the host whose place it may take: b has 1 rank"),
    ],
)
def test_what_makes_no_sense_is_refused(hosts: str, wanted: int, words: str) -> None:
    found = [rank_resources(rank, host) for rank, host in enumerate(hosts)]
    with pytest.raises(RayhpcError, match=words) as caught:
        spares.set_aside(found, tuple(node(rank, host) for rank, host in enumerate(hosts)), wanted)
    assert caught.value.fault.code == ExitCode.CONFIGURATION


def test_another_share_is_a_warning() -> None:
    nodes = (node(0, "a"), node(1, "b", gpus=Gpus(ids=("0",))))
    assert spares.warnings(nodes, (node(2, "c"),)) == []
    expected = "a spare has another share than the nodes: c (1 CPU, 0 GPUs); the others have 2 CPUs, 1 GPU"
    assert spares.warnings(nodes, (node(2, "c", cpus=1),)) == [expected]


def test_the_spare_with_the_same_share_is_taken() -> None:
    roster = Roster(0, [node(0), node(1, cpus=4)], [node(2), node(3, cpus=4)])
    taken = roster.replace(1)
    assert taken is not None
    assert (taken.rank, ranks_of(roster.nodes), ranks_of(roster.waiting)) == (3, [0, 3], [2])


def test_the_cluster_that_was_agreed_knows_its_spares() -> None:
    spec = cluster([node(0), node(1)], spares=(node(2),))
    assert (spec.host(2), cast(Any, spec.node(2)).rank) == ("host2", 2)


# What becomes of a loss.


def staged(directory: Path, clock: Clock, waiting: int, **options: Any) -> Stage:  # noqa: F811
    """Three nodes that were told to start, and so many spares."""
    spec = cluster([node(rank) for rank in range(3)], spares=tuple(node(rank) for rank in range(3, 3 + waiting)))
    made = Stage(directory, clock, Options(on_node_loss="abort", **options), spec)
    made.supervisor.start_workers("h:1", TIMEOUT)
    made.comm.sent.clear()
    return made


@pytest.fixture
def up(tmp_path: Path, clock: Clock) -> Iterator[Stage]:  # noqa: F811
    """All three are alive, two spares wait, and the driver runs."""
    made = staged(tmp_path, clock, 2)
    made.table.alive(0, 1, 2)
    made.come()
    made.drive()
    yield made
    made.log.close()


def also_alive(stage: Stage, rank: int) -> None:
    stage.table.nodes = (*(stage.table.nodes or ()), AliveNode(rank, "", 2.0, 0.0, f"new-{rank}"))


@pytest.mark.parametrize(
    "event", [NodeEnded(1, "host1", -9), NodeDead(1, "host1"), RankSilent(1, "host1", 12.0, closed=True)]
)
def test_a_spare_takes_the_place_of_a_lost_node(up: Stage, event: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.come((1, event)) is None
    assert up.comm.sent == [(1, EndNode()), (3, StartNode("h:1"))]
    assert "; rank 3 on host3 takes its place; 1 spare rank left" in capsys.readouterr().err
    up.table.alive(0, 2)
    also_alive(up, 3)
    assert up.come() is None
    assert "rank 3 on host3 has taken the place of rank 1 on host1: 3/3 Ray nodes" in capsys.readouterr().err
    assert up.supervisor.history == []
    assert list(up.supervisor.bad_hosts) == ["host1"]
    (record,) = [entry for entry in map(json.loads, up.events.read_text().splitlines()) if entry["stage"] == "replaced"]
    assert (record["rank"], record["by"]) == (1, 3)


def test_a_loss_that_is_reported_twice_takes_one_spare(up: Stage) -> None:
    up.table.alive(0, 2)
    assert up.come((1, NodeEnded(1, "host1", -9)), (1, RankSilent(1, "host1", 12.0))) is None
    assert ranks_of(up.supervisor.roster.waiting) == [4]


def test_a_node_that_was_replaced_and_appears_again_is_no_part_of_the_cluster(up: Stage) -> None:
    up.come((1, RankSilent(1, "host1", 12.0)))
    up.table.alive(0, 2)
    also_alive(up, 1)
    assert up.come() is None
    assert (ranks_of(up.supervisor.roster.nodes), up.supervisor.roster.whole) == ([0, 3, 2], 2)


def test_a_second_loss_while_the_first_is_replaced(up: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The spare that was to come ends at its start: the next one takes the same place."""
    assert up.come((1, NodeEnded(1, "host1", -9)), (3, NodeEnded(3, "host3", 1))) is None
    up.table.alive(0, 2)
    also_alive(up, 4)
    assert up.come() is None
    assert "rank 4 on host4 has taken the place of rank 1 on host1: 3/3 Ray nodes" in capsys.readouterr().err


def test_when_no_spare_is_left_the_policy_decides(up: Stage) -> None:
    assert up.come((1, NodeEnded(1, "host1", -9)), (2, NodeEnded(2, "host2", -9))) is None
    assert up.come((3, NodeEnded(3, "host3", 1))).code == ExitCode.NODE_LOST


def test_a_spare_that_is_late_is_replaced(up: Stage, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    up.watch.talking = (1, 2, 3, 4)
    up.come((1, NodeEnded(1, "host1", -9)))
    up.table.alive(0, 2)
    clock.now += TIMEOUT + 1
    assert up.come() is None
    said = "LOST rank 3 on host3: its Ray node was not alive after 120 s; rank 4 on host4 takes its place"
    assert said in capsys.readouterr().err
    clock.now += TIMEOUT + 1
    assert up.come().code == ExitCode.NODE_LOST


def test_a_spare_that_dies_while_it_waits_is_no_loss(up: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.come((3, RankSilent(3, "host3", 12.0, closed=True))) is None
    assert "LOST spare rank 3 on host3: the rank has ended, or its connection has; 1 spare rank left" in (
        capsys.readouterr().err
    )
    assert up.come((1, NodeEnded(1, "host1", -9))) is None
    assert (4, StartNode("h:1")) in up.comm.sent


def test_a_node_is_started_again_before_a_spare_is_taken(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    stage = staged(tmp_path, clock, 1, restart_nodes=1)
    stage.table.alive(0, 1, 2)
    stage.come()
    stage.drive()
    stage.come((1, NodeEnded(1, "host1", -9)))
    assert stage.comm.sent == [(1, RestartNode(1))]
    assert stage.come((1, NodeEnded(1, "host1", 1, restart=1))) is None
    assert stage.comm.sent[1:] == [(1, EndNode()), (3, StartNode("h:1"))]


def test_a_host_that_is_lost_while_its_node_is_started_again_is_replaced(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    stage = staged(tmp_path, clock, 1, restart_nodes=1)
    stage.table.alive(0, 1, 2)
    stage.come()
    stage.drive()
    stage.come((1, NodeDead(1, "host1")), (1, RankSilent(1, "host1", 12.0)))
    assert stage.comm.sent == [(1, RestartNode(1)), (1, EndNode()), (3, StartNode("h:1"))]


def test_the_head_has_no_spare(up: Stage) -> None:
    assert up.come(NodeEnded(0, "host0", -9)).code == ExitCode.HEAD_LOST
    assert not up.supervisor.bad_hosts  # who has the driver may have run out of memory by it


def test_no_spare_is_taken_while_the_driver_is_being_ended(up: Stage) -> None:
    up.come(SignalArrived(0, TERM, 1), (1, NodeEnded(1, "host1", 1)))
    assert up.comm.sent == []
    assert not up.supervisor.bad_hosts


# While the cluster comes up.


def test_what_ends_before_the_head_is_up_is_replaced_when_the_workers_start(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    spec = cluster([node(0), node(1)], spares=(node(2),))
    stage = Stage(tmp_path, clock, Options(), spec)
    assert stage.come((1, NodeEnded(1, "host1", 1))) is None
    stage.supervisor.start_workers("h:1", TIMEOUT)
    assert stage.comm.sent == [(1, EndNode()), (2, StartNode("h:1"))]


def test_late_nodes_are_replaced_as_far_as_there_are_spares(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    stage = staged(tmp_path, clock, 1)
    late = list(stage.supervisor.roster.nodes[1:])
    assert stage.supervisor.replace_late(late)
    assert ranks_of(stage.supervisor.roster.nodes) == [0, 3, 2]
    assert stage.supervisor.replace_late(late[1:])  # the spare has its own time
    clock.now += TIMEOUT
    assert not stage.supervisor.replace_late(late[1:])
    stage.watch.talking = (1, 2, 3)
    assert stage.come() is None  # what is missing then is the verdict's business


@pytest.mark.parametrize(("waiting", "place"), [(1, 3), (2, 3)])
def test_a_spare_that_started_at_the_last_moment_has_its_own_time(
    tmp_path: Path, clock: Clock, waiting: int, place: int  # noqa: F811
) -> None:
    stage = staged(tmp_path, clock, waiting)
    stage.watch.talking = (1, 2, 3, 4)
    stage.table.alive(0, 2)
    clock.now += TIMEOUT - 2
    assert stage.come((1, NodeEnded(1, "host1", 1))) is None
    clock.now += 2
    missing = [entry for entry in stage.supervisor.roster.nodes if entry.rank not in (0, 2)]
    assert stage.supervisor.replace_late(missing)
    assert ranks_of(stage.supervisor.roster.nodes) == [0, place, 2]
    clock.now += TIMEOUT
    assert stage.supervisor.replace_late(missing) == (waiting > 1)  # the next one, if there is another


def test_nobody_waits_for_a_late_spare_that_was_lost(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    stage = staged(tmp_path, clock, 1, min_nodes=2)
    stage.table.alive(0, 2)
    assert stage.come((1, NodeEnded(1, "host1", 1)), (3, NodeEnded(3, "host3", 1))) is None
    assert not stage.supervisor.replace_late([node(3)])


def test_a_spare_that_min_nodes_forgave_is_late_no_more(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    stage = staged(tmp_path, clock, 1, min_nodes=2)
    stage.table.alive(0, 2)
    assert stage.come((1, NodeEnded(1, "host1", 1))) is None
    clock.now += TIMEOUT
    assert not stage.supervisor.replace_late([node(3)])
    stage.drive()
    clock.now += 1
    stage.watch.talking = (1, 2, 3)
    assert stage.come() is None
    assert stage.supervisor.history == []


def test_the_loss_can_be_sent() -> None:
    assert pickle.loads(pickle.dumps(EndNode())) == EndNode()
