"""Rank 0's plan: equal versions, the network that all share, what each rank is told."""

from __future__ import annotations

import contextlib
import json
import pickle
import queue
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rayhpc.bootstrap import plan
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import network
from rayhpc.model import Assignment, Interface, Probe, RankResources, Reach, Versions
from rayhpc.options import Options
from rayhpc.ranks.comm import Comm
from rayhpc.records.ids import new_id
from rayhpc.schedulers.facts import Scheduler
from tests.unit.making import VERSIONS, cluster, node, rank_resources

LOOP = (Interface("lo", "127.0.0.1"),)


def reached(rank: int, *addresses: str, refusals: tuple[str, ...] = ()) -> Reach:
    return Reach(rank, f"rank {rank} on h{rank}", {address: f"own-{rank}-{address}" for address in addresses}, refusals)


def test_equal_versions_are_fine() -> None:
    plan.check_versions([rank_resources(rank) for rank in range(3)])


@pytest.mark.parametrize(
    "odd",
    [Versions("2.54.0", "3.11.7", "0.1.0"), Versions("2.60.0", "3.12.1", "0.1.0"), Versions("2.60.0", "3.11.7", "0")],
)
def test_another_version_is_refused_with_rank_host_and_figures(odd: Versions) -> None:
    ranks = [rank_resources(0, "a"), rank_resources(1, "b", versions=odd), rank_resources(2, "c")]
    with pytest.raises(RayhpcError, match="versions differ on rank 1") as caught:
        plan.check_versions(ranks)
    assert caught.value.fault.code == ExitCode.CONFIGURATION
    first, second = caught.value.fault.evidence
    assert first == f"rank 0 on a: Ray {VERSIONS.ray}, Python {VERSIONS.python}, rayhpc {VERSIONS.rayhpc}"
    assert second == f"rank 1 on b: Ray {odd.ray}, Python {odd.python}, rayhpc {odd.rayhpc}"


def test_a_thousand_odd_ranks_fit_on_a_screen() -> None:
    odd = Versions("0", "0", "0")
    with pytest.raises(RayhpcError, match="and 993 more") as caught:
        plan.check_versions([rank_resources(0), *(rank_resources(rank, versions=odd) for rank in range(1, 1000))])
    assert len(caught.value.fault.evidence) == 9


def test_the_first_address_that_all_reached_is_chosen() -> None:
    reaches = [reached(0, "ib", "eth"), reached(1, "eth", "ib"), reached(2, "ib", "eth")]
    assert plan.choose_address("a", ["ib", "eth"], reaches) == "ib"
    assert plan.choose_address("a", ["ib", "eth"], [*reaches, reached(3, "eth")]) == "eth"


def test_a_rank_that_reached_nothing_is_named_with_its_refusals() -> None:
    reaches = [reached(0, "ib"), reached(1, refusals=("ib: timed out", "eth: No route to host")), reached(2, "ib")]
    with pytest.raises(RayhpcError, match="rank 1 on h1 cannot reach the head a") as caught:
        plan.choose_address("a", ["ib", "eth"], reaches)
    assert caught.value.fault.evidence == ("rank 1 on h1 -> a  ib: timed out; eth: No route to host",)
    assert "--interface" in caught.value.fault.next_step


def test_ranks_that_reached_different_networks_are_all_named() -> None:
    with pytest.raises(RayhpcError, match="rank 0 on h0, rank 1 on h1 cannot reach") as caught:
        plan.choose_address("a", ["ib", "eth"], [reached(0, "ib"), reached(1, "eth")])
    assert len(caught.value.fault.evidence) == 2


def test_run_ids_sort_by_time_and_are_unique() -> None:
    ids = [new_id(1.8e9 + seconds) for seconds in range(0, 100000, 997)]
    assert ids == sorted(ids)
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", run_id) for run_id in ids)
    assert len({new_id(1.8e9) for _ in range(100)}) == 100


def told(nodes: int) -> list[Assignment]:
    spec = cluster([node(rank, f"host{rank:04}", address="10.0.0.1") for rank in range(nodes)])
    return plan.assignments(spec, [rank_resources(rank) for rank in range(nodes)], "s3cret")


def test_an_assignment_is_of_constant_size() -> None:
    """Rank 0 sends one to each rank: with the whole ClusterSpec in it the bytes would grow with the square."""
    small, large = told(2), told(2000)
    assert abs(len(pickle.dumps(small[1])) - len(pickle.dumps(large[1]))) < 32


def test_every_rank_is_told_its_own_node_and_an_idle_one_none() -> None:
    spec = cluster([node(0, "a"), node(2, "b")], ranks=4)
    made = plan.assignments(spec, [rank_resources(rank) for rank in range(4)], "s3cret")
    assert [entry.node and entry.node.rank for entry in made] == [0, None, 2, None]
    assert {(entry.run_id, entry.nodes, entry.token, entry.head_address) for entry in made} == {
        (spec.run_id, 2, "s3cret", "10.0.0.1")
    }


# The planner, with the loopback as the network of all.


@pytest.fixture
def runs(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


@pytest.fixture
def planners() -> Iterator[list[plan.Planner]]:
    made: list[plan.Planner] = []
    yield made
    for planner in made:
        planner.close()


def planned(
    planners: list[plan.Planner], ranks: list[RankResources], options: Options, scheduler: Scheduler | None = None
) -> tuple[plan.ClusterPlan, list[Assignment]]:
    """Rank 0's plan, and the assignments of all ranks."""
    planner = plan.Planner(options, scheduler, {"BATCH_ID": "42"})
    planners.append(planner)
    proposal, *probes = planner.propose(ranks)
    assert isinstance(proposal, plan.Proposal)
    reaches = [
        network.reach(rank, f"rank {rank}", cast(Probe, probe)) for rank, probe in enumerate([proposal.probe, *probes])
    ]
    made, *others = planner.settle(proposal, reaches)
    assert isinstance(made, plan.ClusterPlan)
    return made, [made.assignment, *cast(list[Assignment], others)]


def test_from_resources_to_assignments(planners: list[plan.Planner], runs: str) -> None:
    ranks = [rank_resources(rank, host, interfaces=LOOP) for rank, host in enumerate("aab")]
    ranks[0] = replace(ranks[0], argv=("/bin/true",))
    planned_cluster, made = planned(planners, ranks, Options(run_dir=runs), Scheduler("batch", "BATCH_ID"))
    spec = planned_cluster.spec
    assert planned_cluster.argv == ("/bin/true",)
    assert (spec.ranks, spec.hosts, spec.scheduler, spec.batch_job_id, spec.dashboard_port) == (3, 2, "batch", "42", 0)
    assert [entry.address for entry in spec.nodes] == ["127.0.0.1"] * 3
    assert Path(spec.run_dir).is_dir()
    assert [entry.node for entry in made] == list(spec.nodes)
    assert len(made[0].token) == 64
    assert made[0].token not in json.dumps(repr(spec))


def scheduled(*hosts: str, cpus: dict[str, int] | None = None) -> Scheduler:
    """A scheduler that names the job's hosts, and says of `true` what their CPUs are."""
    described = (lambda _: cpus) if cpus is not None else None
    return Scheduler("batch", "BATCH_ID", hosts=lambda _: list(hosts), deadline_query=("true",), parse_cpus=described)


@pytest.mark.parametrize(
    ("hosts", "unused"),
    [
        ("a b", ""),
        ("a b c d", "2 of the job's 4 hosts are not used: c, d; start a rank on each of them: mpiexec -n 4 -ppn 1 "),
        ("a.site.org b.site.org c.site.org", "1 of the job's 3 hosts are not used: c.site.org; "),
        ("vnode1 vnode2", ""),  # other names for the same hosts
        ("", ""),
    ],
)
def test_hosts_that_are_granted_and_not_used(planners: list[plan.Planner], runs: str, hosts: str, unused: str) -> None:
    ranks = [rank_resources(rank, host, interfaces=LOOP) for rank, host in enumerate("aab")]
    made, _ = planned(planners, ranks, Options(run_dir=runs), scheduled(*hosts.split()))
    assert "".join(made.warnings).startswith(unused)
    assert bool(made.warnings) == bool(unused)


def test_each_host_gives_what_the_scheduler_granted(planners: list[plan.Planner], runs: str) -> None:
    ranks = [rank_resources(rank, host, interfaces=LOOP, scheduler_cpus=2) for rank, host in enumerate("ab")]
    made, _ = planned(planners, ranks, Options(run_dir=runs), scheduled(cpus={"a": 2, "b": 6}))
    assert [entry.cpus for entry in made.spec.nodes] == [2, 6]


@pytest.mark.parametrize(
    ("options", "remaining", "left"),
    [
        ({}, None, None),
        ({}, 3600.0, 3600.0),
        ({"walltime": "10:00"}, None, 600.0),
        ({"walltime": "10:00"}, 3600.0, 600.0),
    ],
)
def test_the_deadline_is_the_users_word_or_the_schedulers(
    planners: list[plan.Planner], runs: str, options: dict[str, str], remaining: float | None, left: float | None
) -> None:
    end = time.time() + remaining if remaining else None
    scheduler = Scheduler("batch", "BATCH_ID", deadline=lambda _: end)
    made, _ = planned(planners, [rank_resources(interfaces=LOOP)], Options(run_dir=runs, **options), scheduler)  # type: ignore[arg-type]
    assert made.spec.deadline == (pytest.approx(time.time() + left, abs=60) if left else 0.0)


def test_a_deadline_is_taken_as_it_is(planners: list[plan.Planner], runs: str) -> None:
    made, _ = planned(planners, [rank_resources(interfaces=LOOP)], Options(run_dir=runs, deadline=1.9e9))
    assert made.spec.deadline == 1.9e9


def test_no_two_runs_share_a_token_or_a_directory(planners: list[plan.Planner], runs: str) -> None:
    options = Options(run_dir=runs, dashboard=True)
    (one, (first,)), (_, (second,)) = (
        planned(planners, [rank_resources(interfaces=LOOP)], options) for _ in range(2)
    )
    assert first.token != second.token
    assert first.run_dir != second.run_dir
    assert one.spec.port != first.dashboard_port != 0


def test_tls_is_one_certificate_for_all_and_off_by_default(planners: list[plan.Planner], runs: str) -> None:
    ranks = [rank_resources(rank, interfaces=LOOP) for rank in range(2)]
    _, made = planned(planners, ranks, Options(run_dir=runs, tls=True))
    first, second = (entry.certificate for entry in made)
    assert first is not None
    assert first == second
    assert planned(planners, ranks, Options(run_dir=runs))[1][0].certificate is None


def test_tls_that_cannot_be_had_leaves_no_run(
    planners: list[plan.Planner], runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RayhpcError, match="openssl"):
        planned(planners, [rank_resources(interfaces=LOOP)], Options(run_dir=runs, tls=True))
    assert not Path(runs).exists()


def test_the_head_is_probed_at_all_its_addresses(planners: list[plan.Planner], runs: str) -> None:
    planner = plan.Planner(Options(run_dir=runs), None, {})
    planners.append(planner)
    first, second = planner.propose(
        [rank_resources(0, interfaces=(*LOOP, Interface("x", "10.0.0.9"))), rank_resources(1)]
    )
    assert isinstance(first, plan.Proposal)
    assert first.probe == second == Probe(("127.0.0.1", "10.0.0.9"), first.probe.port)


def test_a_refused_plan_leaves_no_run(planners: list[plan.Planner], runs: str) -> None:
    ranks = [rank_resources(0, interfaces=LOOP), rank_resources(1, interfaces=LOOP, versions=Versions("0", "0", "0"))]
    with pytest.raises(RayhpcError, match="versions differ"):
        planned(planners, ranks, Options(run_dir=runs))
    assert not Path(runs).exists()


@pytest.mark.parametrize(("wanted", "nodes"), [(0, 1), (1, 1), (3, 4)])
def test_min_nodes_that_can_be(wanted: int, nodes: int) -> None:
    plan.check_min_nodes(wanted, nodes)


def test_more_min_nodes_than_nodes_are_refused() -> None:
    with pytest.raises(RayhpcError, match="--min-nodes 4, but the cluster has 3 nodes") as caught:
        plan.check_min_nodes(4, 3)
    assert caught.value.fault.code == ExitCode.CONFIGURATION


def test_one_per_host_counts_hosts_for_min_nodes(planners: list[plan.Planner], runs: str) -> None:
    ranks = [rank_resources(rank, interfaces=LOOP) for rank in range(3)]
    with pytest.raises(RayhpcError, match="--min-nodes 2, but the cluster has 1 node"):
        planned(planners, ranks, Options(run_dir=runs, one_per_host=True, min_nodes=2))


@pytest.mark.parametrize("end", [0.0, 1000.1, 2000.0])
def test_time_that_is_left(end: float) -> None:
    plan.check_time_left(end, 1000.0, "slurm; clock of a")


def test_an_end_of_the_job_in_the_past_shows_both_clocks() -> None:
    """As on a host whose clock is ten minutes fast."""
    with pytest.raises(RayhpcError, match="the end of the job was 600 s ago") as caught:
        plan.check_time_left(1.8e9, 1.8e9 + 600, "slurm; clock of a")
    first, second = caught.value.fault.evidence
    assert first.endswith("  slurm")
    assert second.endswith("  clock of a")
    assert first[:10] == second[:10] == time.strftime("%Y-%m-%d", time.localtime(1.8e9))


@pytest.mark.parametrize(
    ("walltime", "hold", "warned"), [("30", False, True), ("30", True, False), ("90", False, False)]
)
def test_a_job_that_ends_within_its_grace_is_told(
    planners: list[plan.Planner], runs: str, walltime: str, hold: bool, warned: bool
) -> None:
    options = Options(run_dir=runs, walltime=walltime, hold=hold)
    made, _ = planned(planners, [rank_resources(interfaces=LOOP)], options)
    assert any("within --grace 60 s: the driver is signalled at once" in text for text in made.warnings) == warned


# Login nodes, by what the scheduler's commands print.
UNKNOWN = {
    "scontrol": "Node login1 not found",
    "pbsnodes": "Node: login1,  Error: Unknown node ",
}


def says(directory: Path, command: str, text: str, code: int) -> None:
    program = directory / command
    program.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    program.chmod(0o755)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which nothing but the test's own commands is."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", UNKNOWN)
def test_a_login_node_is_refused_with_the_schedulers_word(alone: Path, command: str) -> None:
    says(alone, command, UNKNOWN[command], 1)
    with pytest.raises(RayhpcError, match="login1 is a login node: ") as caught:
        plan.check_login_node("login1", {})
    assert UNKNOWN[command].strip() in caught.value.fault.evidence[0]
    assert "--login-node" in caught.value.fault.next_step


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NodeName=login1 Arch=x86_64 CoresPerSocket=1", 0),
        ("scontrol: fatal: Could not establish a configuration source", 1),
        ("slurm_load_node error: Unable to contact slurm controller (connect failure)", 1),
    ],
)
def test_a_job_host_and_a_scheduler_that_does_not_answer_are_no_login_node(alone: Path, text: str, code: int) -> None:
    says(alone, "scontrol", text, code)
    plan.check_login_node("login1", {})


def test_where_no_scheduler_is_there_is_no_login_node(alone: Path) -> None:
    plan.check_login_node("login1", {})


@pytest.mark.parametrize(("environ", "asked"), [({"SLURM_JOB_ID": "7"}, True), ({"SLURMD_NODENAME": "n1"}, False)])
def test_the_shell_of_salloc_may_be_on_a_login_node(alone: Path, environ: dict[str, str], asked: bool) -> None:
    says(alone, "scontrol", UNKNOWN["scontrol"], 1)
    if asked:
        with pytest.raises(RayhpcError, match="login1 is a login node"):
            plan.check_login_node("login1", environ)
    else:
        plan.check_login_node("login1", environ)


class Threads:
    """The connection of a rank that is a thread of this process."""

    gone: frozenset[int] = frozenset()

    def __init__(self, rank: int, boxes: list[queue.SimpleQueue[Any]]) -> None:
        self.rank, self.size, self._boxes = rank, len(boxes), boxes

    def send(self, to: int, message: Any) -> None:
        self._boxes[to].put((self.rank, message))

    def receive(self) -> Any:
        with contextlib.suppress(queue.Empty):
            return self._boxes[self.rank].get_nowait()


def test_a_rank_that_takes_no_part_has_no_node(planners: list[plan.Planner], tmp_path: Path) -> None:
    """The middle one of three, whose host a check has found bad: the other two agree on a cluster."""
    options = Options(run_dir=str(tmp_path))
    planners += [plan.Planner(options, None, {}) for _ in range(3)]
    boxes: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(3)]
    local = (Interface("lo", "127.0.0.1"),)

    def rank(number: int) -> plan.ClusterPlan | Assignment:
        survey = lambda: None if number == 1 else rank_resources(number, f"host{number}", interfaces=local)  # noqa: E731
        comm = cast(Comm, Threads(number, boxes))
        return plan.agree_on_cluster(comm, f"rank {number}", survey, planners[number])

    with ThreadPoolExecutor(3) as pool:
        made, left_out, other = pool.map(rank, range(3))
    assert isinstance(made, plan.ClusterPlan)
    assert isinstance(left_out, Assignment)
    assert isinstance(other, Assignment)
    assert [node.rank for node in made.spec.nodes] == [0, 2]
    assert left_out.node is None
    assert other.node == made.spec.nodes[1]
    assert (left_out.run_dir, left_out.nodes) == (made.spec.run_dir, 2)


def test_spares_have_a_share_and_wait(planners: list[plan.Planner], runs: str) -> None:
    ranks = [rank_resources(rank, host, interfaces=LOOP) for rank, host in enumerate("abc")]
    made, told_ranks = planned(planners, ranks, Options(run_dir=runs, spares=1))
    spec = made.spec
    assert ([entry.rank for entry in spec.nodes], [entry.rank for entry in spec.spares]) == ([0, 1], [2])
    assert (spec.ranks, spec.hosts, told_ranks[2].node) == (3, 3, spec.spares[0])
    assert [(entry.spare, entry.nodes) for entry in told_ranks] == [(False, 2), (False, 2), (True, 2)]


def test_bad_hosts_are_taken_from_the_spares(planners: list[plan.Planner], runs: str) -> None:
    planner = plan.Planner(Options(run_dir=runs, spares=2), None, {}, bad_hosts=1)
    planners.append(planner)
    proposal, *_ = planner.propose([rank_resources(rank, host, interfaces=LOOP) for rank, host in enumerate("abc")])
    assert isinstance(proposal, plan.Proposal)
    assert [entry.rank for entry in proposal.spares] == [2]
