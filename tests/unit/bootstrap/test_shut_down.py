"""Rank 0 shuts everything down, whatever has happened, and ends with the code that was decided. No Ray is started."""

from __future__ import annotations

import errno
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.bootstrap.teardown import Leftovers, Timing, shut_down, stop_rank
from rayhpc.errors import ExitCode, Fault
from rayhpc.messages import Leave, Stop, Stopped
from rayhpc.model import BadHost, Outcome
from rayhpc.options import Options
from rayhpc.records import bad_hosts, run_directory
from tests.unit.making import assignment, cluster, context, node

End = Callable[..., int]


class FakeComm:
    """Rank 0 of two; the other one stops when it is asked to, unless it is silent."""

    def __init__(self, silent: bool = False) -> None:
        self.rank, self.size, self.silent = 0, 2, silent
        self.sent: list[object] = []
        self.mail: list[tuple[int, object]] = []
        self.end: str = ""

    def send(self, _: int, message: object) -> None:
        self.sent.append(message)
        if isinstance(message, Stop) and not self.silent:
            self.mail.append((1, Stopped(1, 2, ((("raylet.out", b"log of rank 1"),) if message.logs else ()))))

    def receive(self) -> tuple[int, Any] | None:
        return self.mail.pop(0) if self.mail else None

    def leave(self) -> None:
        self.end = "left"

    def abort(self, code: int) -> NoReturn:
        self.end = f"aborted with {code}"
        raise SystemExit(code)


@pytest.fixture
def end(tmp_path: Path) -> Iterator[End]:
    """End a run of two ranks, of which rank 0 has prepared its node; the exit code."""
    made: list[RunContext] = []

    def shut(outcome: Outcome, comm: FakeComm | None = None, bad: tuple[BadHost, ...] = (), **options: Any) -> int:
        spec = cluster([node(0, temp_dir=str(tmp_path / "private")), node(1)], run_dir=str(tmp_path / "run"))
        head = Node(assignment(spec), spec.head, Options())
        head.prepare()
        made.append(context(tmp_path / "run", comm=cast(Any, comm or FakeComm()), options=Options(**options)))
        stop_node = lambda order: stop_rank(assignment(spec), 0, head.child, order)  # noqa: E731
        leftovers = Leftovers(None, None, frozenset(), stop_node, bad_hosts=bad)
        return shut_down(made[-1], spec, leftovers, outcome, Timing(stopped=0.05))

    yield shut
    for entry in made:
        entry.log.close()


def outcome_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "run" / "outcome.json").read_text())
    return content


@pytest.mark.parametrize("code", [0, 7, 137])
def test_the_code_is_the_one_that_was_decided(
    end: End, tmp_path: Path, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    comm = FakeComm()
    assert end(Outcome(code, "the driver ended"), comm) == code
    assert not (tmp_path / "private").exists()
    assert (outcome_of(tmp_path)["code"], outcome_of(tmp_path)["problems"]) == (code, [])
    assert (comm.sent[-1], comm.end) == (Leave(), "left")
    last = capsys.readouterr().err.splitlines()[-1]
    assert "; shut down in " in last
    assert last.endswith(f"exit code {code}")


def test_the_outcome_is_written_before_anything_is_given_back(end: End, tmp_path: Path) -> None:
    """A scheduler may kill rank 0 in the middle."""

    class Killed(FakeComm):
        def send(self, _: int, message: object) -> None:
            raise SystemExit(str(message))

    with pytest.raises(SystemExit, match="Stop"):
        end(Outcome(7, "the driver ended with 7"), Killed())
    assert (outcome_of(tmp_path)["code"], outcome_of(tmp_path)["release_seconds"]) == (7, None)


def test_a_fault_is_printed_and_recorded(end: End, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault("the head is lost", ExitCode.HEAD_LOST, "rank 0 on host0", ("last words",), "look", 12.0)
    assert end(Outcome.of(fault)) == 73
    assert fault.text() in capsys.readouterr().err
    assert outcome_of(tmp_path)["fault"]["evidence"] == ["last words"]


@pytest.mark.parametrize(
    ("logs", "code", "kept"),
    [("always", 0, True), ("always", 1, True), ("failure", 0, False), ("failure", 1, True), ("never", 1, False)],
)
def test_logs_are_kept_when_wanted(end: End, tmp_path: Path, logs: str, code: int, kept: bool) -> None:
    end(Outcome(code, ""), logs=logs)
    archive = tmp_path / "run" / "ray-logs.tar.gz"
    assert archive.exists() == kept
    if kept:
        with tarfile.open(archive) as tar:
            assert tar.getnames() == ["rank-1-host1/raylet.out"]


def test_a_rank_that_does_not_answer_is_named_and_only_an_abort_ends_it(end: End, tmp_path: Path) -> None:
    comm = FakeComm(silent=True)
    with pytest.raises(SystemExit):
        end(Outcome(3, ""), comm)
    assert outcome_of(tmp_path)["problems"] == ["rank 1 (host1) has not answered"]
    assert comm.end == "aborted with 3"


@pytest.mark.parametrize(("register", "known"), [(True, ["c", "d"]), (False, [])])
def test_bad_hosts_are_named_recorded_and_remembered(
    end: End, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    register: bool, known: list[str],
) -> None:
    for name, value in {"RAYHPC_STATE_DIR": str(tmp_path / "state"), "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    bad = (BadHost("c", "it was late", 1.0), BadHost("d", "it was lost", 2.0))
    end(Outcome(0, "the driver ended with 0"), bad=bad, register=register)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("; exit code 0; bad hosts: c (it was late), d (it was lost)")
    assert [entry["reason"] for entry in outcome_of(tmp_path)["bad_hosts"]] == ["it was late", "it was lost"]
    assert [entry.host for entry in bad_hosts.every()] == known


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


# As when a training has written its checkpoints there.
@pytest.mark.parametrize("broken", ["archive", "write_json"])
def test_a_full_run_directory_changes_no_exit_code(end: End, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    comm = FakeComm()
    monkeypatch.setattr(run_directory, broken, full)
    assert end(Outcome(0, "the driver ended with 0"), comm) == 0
    assert comm.end == "left"
