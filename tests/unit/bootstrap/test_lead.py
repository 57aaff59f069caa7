"""Rank 0 gives everything back, whatever has happened, and ends with the code that was decided. No Ray is started."""

from __future__ import annotations

import errno
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from rayhpc.bootstrap import teardown
from rayhpc.bootstrap.lead import Leader, table_pauses
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.supervise import head_silence
from rayhpc.errors import ExitCode, Fault
from rayhpc.log import Console
from rayhpc.messages import Leave, Stop, Stopped
from rayhpc.model import Outcome
from rayhpc.options import Options
from rayhpc.records import run_directory
from tests.unit.making import assignment, cluster, node

Make = Callable[..., Leader]


class FakeComm:
    """Rank 0 of two; the other one stops when told to, unless it is silent."""

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
def leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(teardown, "_STOPPED_SECONDS", 0.05)
    made: list[Any] = []

    def make(comm: FakeComm | None = None, **options: Any) -> Leader:
        nodes = [node(0, temp_dir=str(tmp_path / "private")), node(1)]
        spec = cluster(nodes, run_dir=str(tmp_path / "run"))
        assigned = assignment(spec)
        head = Node(assigned, spec.head, Options())
        head.prepare()
        rest = (assigned, spec, head, Options(**options), ["train.py"], Console(0.0), cast(Any, None))
        made.append(Leader(cast(Any, comm or FakeComm()), *rest))
        return cast(Leader, made[-1])

    yield make
    for entry in made:
        entry._log.close()


def outcome_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "run" / "outcome.json").read_text())
    return content


@pytest.mark.parametrize("code", [0, 7, 137])
def test_the_code_is_the_one_that_was_decided(
    leader: Make, tmp_path: Path, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    comm = FakeComm()
    assert leader(comm)._give_back(Outcome(code, "the driver ended")) == code
    assert not (tmp_path / "private").exists()
    assert (outcome_of(tmp_path)["code"], outcome_of(tmp_path)["problems"]) == (code, [])
    assert (comm.sent[-1], comm.end) == (Leave(), "left")
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"exit code {code}")


def test_a_fault_is_told_and_recorded(leader: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault("the head is lost", ExitCode.HEAD_LOST, "rank 0 on host0", ("last words",), "look", 12.0)
    assert leader()._give_back(Outcome.of(fault)) == 73
    assert fault.text() in capsys.readouterr().err
    assert outcome_of(tmp_path)["fault"]["evidence"] == ["last words"]


@pytest.mark.parametrize(
    ("logs", "code", "kept"),
    [("always", 0, True), ("always", 1, True), ("failure", 0, False), ("failure", 1, True), ("never", 1, False)],
)
def test_logs_are_kept_when_wanted(leader: Make, tmp_path: Path, logs: str, code: int, kept: bool) -> None:
    leader(logs=logs)._give_back(Outcome(code, ""))
    archive = tmp_path / "run" / "ray-logs.tar.gz"
    assert archive.exists() == kept
    if kept:
        with tarfile.open(archive) as tar:
            assert tar.getnames() == ["rank-1-host1/raylet.out"]


def test_a_rank_that_does_not_answer_is_named_and_only_an_abort_ends_it(leader: Make, tmp_path: Path) -> None:
    comm = FakeComm(silent=True)
    with pytest.raises(SystemExit):
        leader(comm)._give_back(Outcome(3, ""))
    assert outcome_of(tmp_path)["problems"] == ["rank 1 (host1) has not answered"]
    assert comm.end == "aborted with 3"


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


# As when a training has written its checkpoints there.
@pytest.mark.parametrize("broken", ["archive", "write_json"])
def test_a_full_run_directory_changes_no_exit_code(leader: Make, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    comm = FakeComm()
    made = leader(comm)
    monkeypatch.setattr(run_directory, broken, full)
    assert made._give_back(Outcome(0, "the driver ended with 0")) == 0
    assert comm.end == "left"


def test_a_record_that_cannot_be_begun_is_an_outcome(
    leader: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comm = FakeComm()
    made = leader(comm)
    ordinary = run_directory.write_json
    monkeypatch.setattr(
        run_directory, "write_json", lambda file, *rest: (full if "cluster" in file.name else ordinary)(file, *rest)
    )
    assert made.run([]) != 0
    assert comm.end == "left"
    assert not (tmp_path / "private").exists()


def test_a_long_table_is_asked_for_less_often() -> None:
    assert table_pauses(1) == table_pauses(40) == (0.02, 1.0)
    assert table_pauses(4000) == (2.0, 10.0)
    calm = table_pauses(10_000)[1]
    assert calm < head_silence(10_000) / 2  # a head that is silent is still told from one that is not asked
