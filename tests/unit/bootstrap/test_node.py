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
def test_bad_luck_is_told_from_a_node_that_cannot_start(tmp_path: Path, text: str, reason: str) -> None:
    made = made_in(tmp_path)
    made.prepare()
    logs = tmp_path / "rh-01234567-0" / "r" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text(text)
    assert made.worth_another_try() == reason


def test_the_evidence_is_of_the_node_and_its_daemons(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    made.prepare()
    made.log.write_text("\n".join(f"line {n}" for n in range(100)))
    logs = tmp_path / "rh-01234567-0" / "r" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("SIGABRT")
    assert made.evidence(2) == ("line 99", "SIGABRT")


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


def test_the_directory_is_the_nodes_and_not_the_heads(tmp_path: Path) -> None:
    spec = cluster([node(0), replace(node(1), temp_dir=str(tmp_path / "x"))])
    made = Node(assignment(spec, 1), spec.nodes[1], Options())
    assert made.authentication["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "x" / "token")
    assert made.log.name == "rank-1.log"
