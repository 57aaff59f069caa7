"""A rank's private directory and its log; how a node's end is read. No Ray is started."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from rayhpc.bootstrap.node import Node
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import this_host
from rayhpc.messages import Milestone, NodeEnded
from rayhpc.model import Certificate
from rayhpc.options import Options
from rayhpc.processes import ray_start
from tests.unit.making import assignment, cluster, node, until


def made_in(directory: Path) -> Node:
    spec = cluster([node(0, temp_dir=str(directory / "rh-01234567-0"))], run_dir=str(directory / "run"))
    return Node(assignment(spec), spec.head, Options())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_the_owners_alone(tmp_path: Path) -> None:
    made_in(tmp_path).prepare()
    private = tmp_path / "rh-01234567-0"
    assert (private / "token").read_text() == "s3cret"
    assert [mode(path) for path in (private, private / "token", tmp_path / "run", tmp_path / "run" / "rank-0.log")] == [
        0o700, 0o600, 0o700, 0o600,
    ]  # fmt: skip


def test_certificate_and_key_are_the_owners_alone(tmp_path: Path) -> None:
    spec = cluster([node(0, temp_dir=str(tmp_path / "private"))], run_dir=str(tmp_path / "run"))
    made = Node(replace(assignment(spec), certificate=Certificate("chain", "key")), spec.head, Options())
    made.prepare()
    files = {path.name: (path.read_text(), mode(path)) for path in (tmp_path / "private").iterdir()}
    assert files == {"token": ("s3cret", 0o600), "tls.crt": ("chain", 0o600), "tls.key": ("key", 0o600)}
    assert made.authentication["RAY_TLS_SERVER_KEY"] == str(tmp_path / "private" / "tls.key")


@pytest.mark.parametrize("planted", ["directory", "link", "file"])
def test_what_somebody_has_planted_is_not_used_and_not_removed(tmp_path: Path, planted: str) -> None:
    private, elsewhere = tmp_path / "rh-01234567-0", tmp_path / "elsewhere"
    elsewhere.mkdir()
    {"directory": private.mkdir, "link": lambda: private.symlink_to(elsewhere), "file": private.touch}[planted]()
    made = made_in(tmp_path)
    with pytest.raises(RayhpcError, match="rh-01234567-0 cannot be made: File exists") as caught:
        made.prepare()
    assert caught.value.fault.code == ExitCode.CONFIGURATION
    made.discard()
    assert private.exists()
    assert list(elsewhere.iterdir()) == []


def test_a_directory_of_ours_that_is_not_needed_is_discarded(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    made.prepare()
    made.discard()
    assert not (tmp_path / "rh-01234567-0").exists()
    assert (tmp_path / "run").exists()


def test_a_directory_whose_ray_start_has_ended_by_itself_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start, "COMMAND", ("sh", "-c", "echo no Ray; exit 1"))
    made = made_in(tmp_path)
    made.prepare()
    assert until(made.warm_up().poll)
    assert made.evidence() == ("no Ray",)
    made.discard()
    assert not (tmp_path / "rh-01234567-0").exists()


def test_what_was_said_early_is_told_where_there_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a `ray start` that another has replaced."""
    monkeypatch.setattr(ray_start, "COMMAND", ("sh", "-c", "echo no Ray; exit 1"))
    made = made_in(tmp_path)
    made.prepare()
    shutil.rmtree(tmp_path / "run")
    assert until(made.warm_up().poll)
    assert until(made.warm_up().poll)
    assert made.evidence() == ("no Ray", "no Ray")


def test_a_failure_half_way_is_discarded_as_well(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    made = made_in(tmp_path)
    with pytest.raises(RayhpcError, match="cannot be made"):
        made.prepare()
    made.discard()
    assert not (tmp_path / "rh-01234567-0").exists()


def ended_node(directory: Path, text: str, options: Options, rank: int = 0, starts: int = 1) -> NodeEnded | Milestone:
    """The event of a node that was started so often, and ended with this in its daemons' log."""
    nodes = [node(number, temp_dir=str(directory / f"private-{number}")) for number in range(2)]
    spec = cluster(nodes, run_dir=str(directory / "run"))
    made = Node(assignment(spec, rank), nodes[rank], options)
    made.prepare()
    for _ in range(starts):
        child = made.start(1, "")
    assert until(child.poll)
    logs = directory / f"private-{rank}" / "r" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text(text)
    again: list[int] = []
    event = made.ended_or_started_again(child, lambda: again.append(made.start(2, "").keeper_pid))
    assert len(again) == isinstance(event, Milestone)
    made.discard()
    return event


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "COMMAND", ("sh", "-c", "exit 1"))


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bind: Address already in use\n", "port taken"),
        ("OSError: [Errno 98] Address already in use\nexit\n" + "more\n" * 30, "port taken"),
        ("Timed out waiting for file /tmp/x/metrics_agent_port_1\n", "too slow for Ray's agents"),
        ("Exception: The current node timed out during startup. This\n", "too slow for Ray's command line"),
        ("all is well\n", ""),
        ("", ""),
    ],
)
def test_a_node_is_started_again_where_its_end_says_nothing_about_another_start(
    tmp_path: Path, text: str, reason: str
) -> None:
    event = ended_node(tmp_path, text, Options())
    if reason:
        assert isinstance(event, Milestone)
        assert (event.stage, event.warning) == (reason, f"{reason}: its Ray node is started again")
    else:
        assert isinstance(event, NodeEnded)
        assert (event.rank, event.code, event.restart) == (0, 1, 0)


IN_USE = "Address already in use"


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("rank", "port", "starts", "again"), [(0, 0, 2, True), (0, 0, 3, False), (0, 6379, 1, False), (1, 6379, 1, True)]
)
def test_a_node_is_started_three_times_at_most_and_a_head_not_for_a_port_that_is_taken(
    tmp_path: Path, rank: int, port: int, starts: int, again: bool
) -> None:
    event = ended_node(tmp_path, IN_USE, Options(port=port), rank, starts)
    assert isinstance(event, Milestone) == again


@pytest.mark.usefixtures("failing")
def test_a_node_that_ended_before_its_start_is_not_started(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    made.prepare()
    child = made.warm_up()
    assert until(child.poll)
    made.log.write_text(IN_USE)
    assert isinstance(made.ended_or_started_again(child, lambda: pytest.fail("it was started")), NodeEnded)
    made.discard()


@pytest.mark.usefixtures("failing")
def test_a_restart_is_counted_anew_and_its_end_names_it(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    made.prepare()
    for _ in range(3):
        made.start(1, "")
    made.begin_restart(2)
    child = made.start(1, "")
    assert until(child.poll)
    assert made.ended(child).restart == 2
    made.log.write_text(IN_USE)
    assert isinstance(made.ended_or_started_again(child, lambda: None), Milestone)
    made.discard()


def test_the_evidence_is_of_the_node_and_its_daemons(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    made.prepare()
    made.log.write_text("\n".join(f"line {n}" for n in range(100)))
    logs = tmp_path / "rh-01234567-0" / "r" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("SIGABRT")
    assert made.evidence(2) == ("line 99", "SIGABRT")


def test_a_shortage_is_the_evidence_and_no_reason_for_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(this_host, "refused_processes", iter([4, 7]).__next__)
    monkeypatch.setattr(this_host, "process_limit", lambda: 300)
    monkeypatch.setattr(ray_start, "COMMAND", ("false",))
    made = made_in(tmp_path)
    made.prepare()
    child = made.start(7000, "")
    made.log.write_text("first\nTimed out waiting for file /tmp/raylet_port")
    logs = tmp_path / "rh-01234567-0" / "r" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    frames = "\n".join(f"    @ 0x7f5f8725a0{n}  (unknown)" for n in range(20))
    (logs / "raylet.err").write_text(f"thd.cc:157]   pthread_create failed: Resource temporarily unavailable\n{frames}")
    assert until(child.poll)
    ended = made.ended_or_started_again(child, lambda: pytest.fail("it was started again"))
    assert isinstance(ended, NodeEnded)
    assert ended.tail == (
        "pthread_create failed: Resource temporarily unavailable",
        "first",
        "Timed out waiting for file /tmp/raylet_port",
    )
    lacked, refused = made.shortages()
    assert lacked.startswith("Ray has lacked processes or threads: compare ulimit -u")
    assert refused == "the cgroup has refused processes or threads: its pids.max is 300"
    made.discard()


def test_a_node_is_cleared_and_the_token_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "COMMAND", ("cat",))
    made = made_in(tmp_path)
    made.prepare()
    before = made.warm_up()
    (tmp_path / "rh-01234567-0" / "r" / "session_1").mkdir(parents=True)
    made.clear()
    assert before.gone
    assert [path.name for path in (tmp_path / "rh-01234567-0").iterdir()] == ["token"]
    assert made.child is not None
    os.kill(made.child.keeper_pid, signal.SIGCONT)  # it is there
    made.discard()
    assert not (tmp_path / "rh-01234567-0").exists()


def test_the_keeper_of_a_node_that_is_started_again_knows_the_last_word(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    made.prepare()
    (tmp_path / "run" / ".outcome-room").write_text("x")
    made.leave_word("killed")
    made.clear()
    assert made.child is not None
    assert made.child._keeper.stdin is not None
    made.child._keeper.stdin.close()  # as when this process is killed
    assert until((tmp_path / "run" / "outcome.json").exists)
    assert (tmp_path / "run" / "outcome.json").read_text() == "killed"
    assert until(lambda: not (tmp_path / "rh-01234567-0").exists())


def test_the_directory_is_the_nodes_and_not_the_heads(tmp_path: Path) -> None:
    spec = cluster([node(0), replace(node(1), temp_dir=str(tmp_path / "x"))])
    made = Node(assignment(spec, 1), spec.nodes[1], Options())
    assert made.authentication["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "x" / "token")
    assert made.log.name == "rank-1.log"
