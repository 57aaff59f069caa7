"""A job that brings nodes to another run's cluster: what it agrees on, when it leaves, what the other's record says."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rayhpc.bootstrap import join
from rayhpc.bootstrap.guests import Guests
from rayhpc.bootstrap.join import GuestSupervisor
from rayhpc.bootstrap.join_plan import JoinPlanner
from rayhpc.bootstrap.node import start_arguments
from rayhpc.bootstrap.plan import ClusterPlan, Proposal
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host.network import Knock
from rayhpc.messages import SignalArrived
from rayhpc.model import KUBERAY, AliveNode, Interface, Reach
from rayhpc.options import Options
from rayhpc.records import registry
from tests.unit.making import VERSIONS, cluster, code_of, context, entry, rank_resources, until

LOOP = (Interface("lo", "127.0.0.1"),)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def registered(state: Path, **changes: Any) -> None:
    run = state / "cluster-run"
    run.mkdir()
    versions = changes.pop("versions", VERSIONS)
    (run / "cluster.json").write_text(json.dumps({"versions": vars(versions)}))
    registry.add(entry(run_dir=str(run), **changes), "t0ken")


def planner(state: Path, **options: Any) -> JoinPlanner:
    return JoinPlanner(Options(join="01234567", run_dir=str(state / "runs"), **options), None, {})


def test_two_ranks_join(state: Path) -> None:
    registered(state, dashboard="http://10.0.0.1:8265")
    made = planner(state)
    ranks = [rank_resources(rank, interfaces=LOOP, host=f"n{rank}", host_id=f"n{rank}") for rank in range(2)]
    proposal, probe = made.propose(ranks)
    assert isinstance(proposal, Proposal)
    assert probe == proposal.probe
    assert (proposal.probe.addresses, proposal.probe.port) == (("10.0.0.1",), 20001)
    reaches = [Reach(rank, f"rank {rank} on n{rank}", {"10.0.0.1": f"10.0.0.{7 + rank}"}) for rank in range(2)]
    plan, second = made.settle(proposal, reaches)
    assert isinstance(plan, ClusterPlan)
    assert not isinstance(second, ClusterPlan)
    assert (plan.spec.address, plan.spec.joins) == ("10.0.0.1:20001", "10.0.0.1:20001")
    assert [node.address for node in plan.spec.nodes] == ["10.0.0.7", "10.0.0.8"]
    assert (second.token, second.head_address, second.nodes, second.dashboard_port) == ("t0ken", "10.0.0.1", 4, 8265)
    assert second.node is not None
    words = start_arguments(second, second.node, Options(), 0, plan.spec.address)
    assert f"--labels=rayhpc-rank={plan.spec.run_id}.1" in words
    assert "t0ken" not in Path(plan.spec.run_dir, "..").name


@pytest.mark.parametrize(
    ("changes", "options", "what"),
    [
        ({"tls": True}, {}, "certificate"),
        ({"scheduler": KUBERAY, "batch_job_id": "demo"}, {}, "on Kubernetes"),
        ({"versions": VERSIONS.__class__("2.59.0", "3.11.7", "0")}, {}, "this job has other versions"),
        ({}, {"walltime": "30"}, "the job ends in 30 s, and its nodes leave --grace 60 s before"),
    ],
)
def test_a_cluster_that_cannot_be_joined(
    state: Path, changes: dict[str, Any], options: dict[str, str], what: str
) -> None:
    registered(state, **changes)
    with pytest.raises(RayhpcError, match=what) as caught:
        planner(state, **options).propose([rank_resources(interfaces=LOOP)])
    assert code_of(caught.value) == ExitCode.CONFIGURATION


def test_a_rank_that_does_not_reach_the_cluster_is_named(state: Path) -> None:
    registered(state)
    made = planner(state)
    (proposal,) = made.propose([rank_resources(interfaces=LOOP)])
    assert isinstance(proposal, Proposal)
    with pytest.raises(RayhpcError, match=f"rank 0 on n0 cannot reach the cluster {entry().id} on a") as caught:
        made.settle(proposal, [Reach(0, "rank 0 on n0", {}, ("10.0.0.1: Connection refused",))])
    assert caught.value.fault.evidence == ("rank 0 on n0: 10.0.0.1: Connection refused",)
    assert not (state / "runs").exists()


class Mailbox:
    """What has come."""

    every = 0.0

    def __init__(self, *mail: Any) -> None:
        self.mail = list(mail)

    def wait(self) -> list[tuple[int, Any]]:
        found, self.mail = [(0, each) for each in self.mail], []
        return found


class Table:
    """Nothing is new."""

    nodes = None


def supervisor(
    state: Path, knock: Knock, monkeypatch: pytest.MonkeyPatch, *mail: Any, **changes: Any
) -> GuestSupervisor:
    monkeypatch.setattr(join.network, "knock", lambda *_: knock)
    monkeypatch.setattr(join, "_KNOCK_SECONDS", 0.01)
    shared = context(state, watch=Mailbox(*mail), options=Options(grace=60.0, stop_timeout=5.0))
    spec = cluster(2, joins="10.0.0.9:20001", run_dir=str(state), **changes)
    table: Any = Table()
    return GuestSupervisor(shared, spec, table)


@pytest.mark.parametrize(("up", "code"), [(True, 0), (False, ExitCode.NOT_READY)])
def test_the_end_of_the_cluster_ends_it(
    state: Path, monkeypatch: pytest.MonkeyPatch, up: bool, code: int
) -> None:
    made = supervisor(state, Knock.REFUSED, monkeypatch)
    if up:
        made.accept()
    end = time.monotonic() + 10
    while (outcome := made.poll()) is None and time.monotonic() < end:
        pass
    assert outcome is not None
    assert outcome.code == code
    assert outcome.cause.find("the cluster at 10.0.0.9:20001") >= 0


@pytest.mark.parametrize(
    ("mail", "left", "patience", "cause"),
    [
        ([SignalArrived(0, signal.SIGTERM, 1)], 0.0, 5.0, "ended by SIGTERM"),
        ([SignalArrived(0, signal.SIGUSR1, 1)], 0.0, 60.0, "left on SIGUSR1"),
        ([], 50.0, 60.0, "left before the end of the job"),
        ([], 100.0, 0.0, None),
    ],
)
def test_when_it_leaves(
    state: Path, monkeypatch: pytest.MonkeyPatch, mail: list[Any], left: float, patience: float, cause: str | None
) -> None:
    made = supervisor(state, Knock.OPEN, monkeypatch, *mail, deadline=time.time() + left if left else 0.0)
    made.accept()
    outcome = made.poll()
    made.port.close()
    assert (outcome.cause if outcome else None) == cause
    assert made.patience == patience


def test_it_leaves_when_it_is_asked(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = supervisor(state, Knock.OPEN, monkeypatch)
    made.accept()
    assert made.poll() is None
    (state / "leave").touch()
    assert until(lambda: made.port.asked)
    outcome = made.poll()
    made.port.close()
    assert outcome is not None
    assert (outcome.code, outcome.cause, made.patience) == (0, "asked to leave", 60.0)


def test_the_record_says_who_came_and_went(state: Path) -> None:
    shared = context(state)
    guests, told = Guests(shared, "a"), []
    guests.tell = lambda nodes, lines: told.append((len(nodes), lines))
    own, guest = AliveNode(0, "10.0.0.1", 2.0, 0.0, "0a"), AliveNode(None, "10.0.0.7", 1.0, 0.0, "0b", guest="run.0")
    for nodes in ([own], [own, guest], [own, guest], [own]):
        guests.look(nodes)
    assert [count for count, _ in told] == [2, 1]
    assert told[0][1][0].startswith("run.0 at 10.0.0.7, 1 CPUs, 0 GPUs: since ")
    assert " until " in told[1][1][0]
    events = [json.loads(line) for line in (state / "events.jsonl").read_text().splitlines()]
    assert [(event["stage"], event["node"]) for event in events] == [("joined", "run.0"), ("left", "run.0")]
