"""When a cluster is ready, and what is said of one that is not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from rayhpc.bootstrap import readiness
from rayhpc.errors import ExitCode, Fault
from rayhpc.log import Console
from rayhpc.model import AliveNode, ClusterSpec, Gpus, Outcome
from rayhpc.options import Options
from tests.unit.making import cluster, node

SPEC = cluster([node(0), node(1, gpus=Gpus(ids=("0", "1"))), node(2)])


@dataclass
class FakeTable:
    nodes: tuple[AliveNode, ...] | None = None
    last_error: str = ""


class FakeBar:
    def __init__(self) -> None:
        self.shown: list[int] = []

    def show(self, done: int) -> None:
        self.shown.append(done)


def alive(*ranks: int | None) -> tuple[AliveNode, ...]:
    return tuple(AliveNode(rank, "10.0.0.9", 2.0, 2.0 if rank == 1 else 0.0) for rank in ranks)


def judged(table: FakeTable, spec: ClusterSpec = SPEC, **options: Any) -> Outcome | None:
    return readiness.verdict(cast(Any, table), spec, Options(**options), Console(0.0), 120.0)


def refused(table: FakeTable, spec: ClusterSpec = SPEC, **options: Any) -> Fault:
    outcome = judged(table, spec, **options)
    assert outcome is not None
    assert outcome.fault is not None
    assert outcome.code == outcome.fault.code == ExitCode.NOT_READY
    return outcome.fault


@pytest.mark.parametrize(
    ("found", "ranks"),
    [(None, [0, 1, 2]), ((), [0, 1, 2]), (alive(1), [0, 2]), (alive(0, 1, 2), []), (alive(None, 7, 0), [1, 2])],
)
def test_missing(found: tuple[AliveNode, ...] | None, ranks: list[int]) -> None:
    assert [entry.rank for entry in readiness.missing(found, SPEC.nodes)] == ranks


def test_a_complete_cluster_is_accepted() -> None:
    assert judged(FakeTable(alive(2, 0, 1))) is None


def test_strangers_in_the_table_do_not_matter() -> None:
    assert judged(FakeTable(alive(0, 1, 2, None))) is None


def test_missing_nodes_are_named_with_their_last_words(tmp_path: Path) -> None:
    (tmp_path / "rank-1.log").write_text("starting\nOSError: disk full\n")
    spec = cluster(SPEC.nodes, run_dir=str(tmp_path))
    fault = refused(FakeTable(alive(0), last_error="RpcError: unavailable"), spec)
    assert fault.what == "2 of 3 nodes not alive after 120 s: host1 (rank 1), host2 (rank 2)"
    assert fault.evidence == (
        "host1: starting",
        "host1: OSError: disk full",
        "host2: nothing in its log yet",
        "node table: RpcError: unavailable",
    )
    assert f"{tmp_path}/rank-1.log" in fault.next_step


def test_a_thousand_missing_nodes_fit_on_a_screen() -> None:
    fault = refused(FakeTable(alive(0)), cluster(1000))
    assert fault.what.startswith("999 of 1000 nodes not alive")
    assert fault.what.endswith("and 993 more")
    assert len(fault.evidence) == 3


@pytest.mark.parametrize(("least", "accepted"), [(0, False), (1, True), (2, True), (3, False)])
def test_min_nodes_go_on_with_a_warning(least: int, accepted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert (judged(FakeTable(alive(0, 1)), min_nodes=least) is None) == accepted
    warning = "WARNING: going on with 2 of 3 Ray nodes; missing: host2 (rank 2)"
    assert (warning in capsys.readouterr().err) == accepted


@pytest.mark.parametrize(("cpus", "gpus"), [(3.0, 2.0), (2.0, 0.0), (2.0, 1.0)])
def test_a_node_with_other_resources_than_it_was_given_is_refused(cpus: float, gpus: float) -> None:
    fault = refused(FakeTable((*alive(0, 2), AliveNode(1, "", cpus, gpus))))
    assert fault.evidence == (f"rank 1 on host1: {cpus:g} CPUs, {gpus:g} GPUs; expected 2 and 2",)


def test_min_nodes_forgives_missing_nodes_and_not_wrong_ones() -> None:
    assert judged(FakeTable((*alive(0), AliveNode(1, "", 99.0, 0.0))), min_nodes=1) is not None


def test_waiting_ends_when_all_are_alive() -> None:
    table, bar = FakeTable(), FakeBar()
    news = [None, (), alive(0), alive(0, 1), alive(0, 1, 2)]

    def poll() -> None:
        table.nodes = news.pop(0)

    end = time.monotonic() + 60
    assert readiness.wait_for_nodes(cast(Any, table), lambda: SPEC.nodes, set(), end, poll, cast(Any, bar)) is None
    assert (news, bar.shown) == ([], [0, 0, 1, 2, 3])


def test_waiting_ends_with_an_outcome() -> None:
    outcome = Outcome(71, "a node ended")
    found = readiness.wait_for_nodes(
        cast(Any, FakeTable()), lambda: SPEC.nodes, set(), time.monotonic() + 60, lambda: outcome, cast(Any, FakeBar())
    )
    assert found is outcome


def test_waiting_ends_with_the_time() -> None:
    def never() -> None:
        raise AssertionError("the time is over")

    end = time.monotonic() - 1
    bar = cast(Any, FakeBar())
    assert readiness.wait_for_nodes(cast(Any, FakeTable()), lambda: SPEC.nodes, set(), end, never, bar) is None


def test_who_is_lost_is_not_waited_for() -> None:
    table, lost = FakeTable(alive(0, 1)), set[int]()

    def poll() -> None:
        lost.add(2)

    end = time.monotonic() + 60
    assert readiness.wait_for_nodes(cast(Any, table), lambda: SPEC.nodes, lost, end, poll, cast(Any, FakeBar())) is None
    assert lost == {2}
    assert time.monotonic() < end - 30


def test_the_patience_grows_with_the_cluster() -> None:
    assert readiness.default_timeout(1) >= 120
    assert readiness.default_timeout(1000) >= 2 * readiness.default_timeout(1)


def test_totals() -> None:
    assert readiness.totals(alive(0, 1, 2)) == "6 CPUs, 2 GPUs"
    assert readiness.totals([AliveNode(0, "", 0.5, 0.0)]) == "0.5 CPUs, 0 GPUs"
