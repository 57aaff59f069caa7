"""The chain of stages on rank 0: a whole run with real processes, a real driver, and the socket of the node table.

Ray cannot start in a unit test's time: the head's `ray start` is a process that sleeps, and its node table answers that
every node is alive.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from rayhpc import paths
from rayhpc.bootstrap.bring_up import table_pauses
from rayhpc.bootstrap.lead import Leader, Stage
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.plan import ClusterPlan
from rayhpc.bootstrap.supervise import head_silence
from rayhpc.bootstrap.watch import Watch
from rayhpc.model import Outcome
from rayhpc.options import Options
from rayhpc.processes import ray_start
from rayhpc.processes.signals import Signals
from rayhpc.ranks.comm import SoloComm
from rayhpc.records import run_directory
from tests.unit.making import assignment, cluster, context, node


class HeadTable:
    """The node table of a head that is alone and alive, at the socket where rank 0 asks."""

    def __init__(self, path: str) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            link, _ = self._server.accept()
        except OSError:
            return  # nobody has asked
        with link.makefile("rb") as questions:
            for _ in questions:
                link.sendall(json.dumps({"rows": [["0", "10.0.0.1", 2.0, 0.0, "first"]]}).encode() + b"\n")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # which ends accept()
        self._server.close()


Lead = Callable[..., int]


@pytest.fixture
def signals() -> Iterator[Signals]:
    import signal

    before = {signum: signal.getsignal(signum) for signum in (1, 2, 10, 12, 15)}
    yield Signals()
    signal.set_wakeup_fd(-1)
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def lead(tmp_path: Path, signals: Signals, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lead]:
    """Lead a run of one rank to its end; the exit code."""
    monkeypatch.setattr(ray_start, "COMMAND", ("sleep", "60"))
    tables: list[HeadTable] = []
    with tempfile.TemporaryDirectory() as short:  # pytest's own are longer than a socket's path may be

        def run(argv: Sequence[str], kind: Callable[..., Leader] = Leader, where: str = "run", **options: Any) -> int:
            chosen = Options(register=False, **options)
            spec = cluster([node(0, temp_dir=f"{short}/p")], run_dir=str(tmp_path / where))
            head = Node(assignment(spec), spec.head, chosen)
            head.prepare()
            tables.append(HeadTable(paths.node_table(spec.head.temp_dir)))
            comm = SoloComm()
            made = context(
                tmp_path / where, comm=comm, options=chosen, argv=tuple(argv), watch=Watch(comm, signals, 0.01)
            )
            return kind(made, ClusterPlan(spec, assignment(spec), tuple(argv), ("a warning",)), head).run()

        yield run
        assert not Path(short, "p").exists()
    for table in tables:
        table.close()


def record(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "run" / "outcome.json").read_text())
    return content


def stages_of(directory: Path) -> list[str]:
    lines = (directory / "run" / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["stage"] for line in lines]


@pytest.mark.parametrize("code", [0, 7])
def test_a_run_from_the_agreed_cluster_to_the_drivers_code(
    lead: Lead, tmp_path: Path, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = [sys.executable, "-c", f"import os; print(os.environ['RAY_ADDRESS'], flush=True); exit({code})"]
    assert lead(argv) == code
    assert (record(tmp_path)["code"], record(tmp_path)["problems"], record(tmp_path)["command"]) == (code, [], argv)
    stages = [stage for stage in stages_of(tmp_path) if stage != "alive"]  # noted at the next look after an answer
    assert stages == ["agreed", "start", "head", "up", "driver", "DriverEnded", "decided", "released"]
    printed, lines = capfd.readouterr()
    assert printed == "10.0.0.1:20001\n"
    assert "WARNING: a warning\n" in lines
    assert "1/1 Ray nodes, 2 CPUs, 0 GPUs\n" in lines


def test_a_run_whose_place_is_a_link_says_where_it_lies(
    lead: Lead, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "rayhpc-runs").symlink_to("theirs")
    assert lead(["/bin/true"], where="rayhpc-runs/a-run") == 0
    real = tmp_path / "theirs" / "a-run"
    assert f"{tmp_path / 'rayhpc-runs'} is a link: the run lies in {real}\n" in capfd.readouterr().err
    assert (real / "outcome.json").exists()


def test_a_driver_asks_rayhpc_about_its_run(lead: Lead, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls = "rayhpc.address(), rayhpc.nodes(), str(rayhpc.run_dir()), rayhpc.restarts(), rayhpc.time_left() > 1e9"
    assert lead([sys.executable, "-c", f"import rayhpc; print({calls})"]) == 0
    assert capfd.readouterr().out == f"10.0.0.1:20001 1 {tmp_path / 'run'} 0 True\n"


def test_variables_of_another_cluster_are_reported_without_secrets(
    lead: Lead, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RAY_ADDRESS": "10.9.9.9:1\n", "RAY_AUTH_TOKEN": "secret", "RAY_TMPDIR": "/x"}.items():
        monkeypatch.setenv(name, value)
    assert lead(["/bin/sh", "-c", "test $RAY_ADDRESS = 10.0.0.1:20001"]) == 0
    lines = capfd.readouterr().err
    named = "RAY_ADDRESS='10.9.9.9:1\\n', RAY_AUTH_TOKEN, RAY_TMPDIR"
    assert f"WARNING: set in your environment, not used: {named}; the driver gets this run's cluster\n" in lines
    assert "secret" not in lines


def test_a_run_inside_of_a_run_does_not_report_the_variables_of_the_outer_one(
    lead: Lead, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RAY_ADDRESS": "10.9.9.9:1", "RAYHPC_NODE": "outer/0"}.items():
        monkeypatch.setenv(name, value)
    assert lead(["/bin/true"]) == 0
    assert "RAY_ADDRESS" not in capfd.readouterr().err


@pytest.mark.parametrize(("outcome", "code", "driven"), [(None, 3, True), (Outcome(9, "a check has failed"), 9, False)])
def test_a_stage_between_the_accepted_cluster_and_the_driver_is_one_line(
    lead: Lead, tmp_path: Path, outcome: Outcome | None, code: int, driven: bool
) -> None:
    """Such a stage sees the accepted cluster; it lets the run go on, or ends it in order, as every other stage does."""
    seen: list[str] = []

    def check() -> Outcome | None:
        seen.extend(stages_of(tmp_path))
        return outcome

    class Checking(Leader):
        def stages(self) -> Sequence[Stage]:
            *others, run_driver = super().stages()
            return (*others, check, run_driver)

    assert lead(["/bin/sh", "-c", "exit 3"], Checking) == code
    assert seen[-1] == "up"
    assert ("driver" in stages_of(tmp_path)) == driven
    assert record(tmp_path)["code"] == code


def test_a_bug_in_a_stage_leaves_nothing_running(lead: Lead, tmp_path: Path) -> None:
    class Buggy(Leader):
        def stages(self) -> Sequence[Stage]:
            return (*super().stages()[:4], lambda: cast(Any, None).nothing)

    assert lead(["/bin/true"], Buggy) == 70
    assert "AttributeError" in record(tmp_path)["cause"]


def test_a_record_that_cannot_be_written_is_an_outcome(
    lead: Lead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ordinary = run_directory.write_json

    def full(file: Path, content: Any) -> None:
        if file.name == paths.SPEC:
            raise OSError(28, "No space left on device")
        ordinary(file, content)

    monkeypatch.setattr(run_directory, "write_json", full)
    assert lead(["/bin/true"]) == 70
    assert "No space left on device" in record(tmp_path)["cause"]


def test_a_long_table_is_asked_for_less_often() -> None:
    assert table_pauses(1) == table_pauses(40) == (0.02, 1.0)
    assert table_pauses(4000) == (2.0, 10.0)
    calm = table_pauses(10_000)[1]
    assert calm < head_silence(10_000) / 2  # a head that is silent is still told from one that is not asked
