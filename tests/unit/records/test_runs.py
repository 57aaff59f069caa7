"""`rayhpc runs …` as a user types it, over run directories."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rayhpc.cli.main import main
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.model import Outcome
from rayhpc.records import outcome_file, run_directory, runs
from rayhpc.records.outcome_file import Pulse
from tests.unit.making import HOSTILE, cluster, code_of, story_events

PNG = b"\x89PNG\r\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user is who has run something: rayhpc-runs with two runs, an allocation's record and `latest`."""
    monkeypatch.chdir(tmp_path)
    record("20261121-100000-aaaaaaaa", ["train.py", "--lr", "3e-4"], code=0, batch_job_id="17_3", scheduler="slurm")
    record("20261121-110000-bbbbbbbb", None, batch_job_id="18")
    Path("rayhpc-runs/allocations/20261121-100000-cccccccc").mkdir(parents=True)
    return tmp_path


def record(name: str, command: Sequence[str] | None, code: int = 0, **spec: Any) -> Path:
    """A run of three nodes as the bootstrap records it; command: None for one that goes on."""
    directory = run_directory.create("rayhpc-runs", name)
    Pulse(directory).close()
    run_directory.write_json(directory / "cluster.json", cluster(3, **spec))
    first, *others = story_events()
    lines = [{**first, "command": command or ["train.py", "--lr", "1"]}, *others]
    lines = [entry for entry in lines if command is not None or entry["at"] < 119.0]
    (directory / "events.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    if command is not None:
        ended = {"code": code, "cause": f"the driver ended with {code}", "command": command}
        outcome_file.write(directory, ended)
    return directory


def rayhpc(*words: str) -> Result:
    return CliRunner().invoke(main, ["runs", *words])


def test_list(home: Path) -> None:
    done = rayhpc("list")
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["RUN", "JOB", "NODES", "CODE", "CAUSE", "COMMAND"],
        ["20261121-100000-aaaaaaaa", "17_3", "3", "0", "the driver ended with 0", "train.py --lr 3e-4"],
        ["20261121-110000-bbbbbbbb", "18", "3", "", "running", "train.py --lr 1"],
    ]
    assert (done.exit_code, done.stderr) == (0, "")


def test_list_for_programs(home: Path) -> None:
    first, second = json.loads(rayhpc("list", "--json").stdout)
    assert first == {
        "id": "20261121-100000-aaaaaaaa", "directory": str(home / "rayhpc-runs/20261121-100000-aaaaaaaa"),
        "batch_job_id": "17_3", "nodes": 3, "hosts": 3, "code": 0, "cause": "the driver ended with 0",
        "command": ["train.py", "--lr", "3e-4"], "silence": None,
    }  # fmt: skip
    assert (second["code"], second["command"]) == (None, ["train.py", "--lr", "1"])
    assert 0 <= second["silence"] < 60


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        (80, "running"),
        (100, "not heard of for 100 s: lost, or suspended"),
        (3 * 86400, "not heard of for 3 d: lost, or suspended"),
        (None, "no outcome"),
    ],
)
def test_a_lost_run_is_told_from_a_living_one(home: Path, silent: float | None, words: str) -> None:
    room = Path("rayhpc-runs/latest/.outcome-room")
    if silent is None:  # as an earlier version leaves it
        room.unlink()
    else:
        os.utime(room, (time.time() - silent,) * 2)
    assert rayhpc("list").stdout.splitlines()[-1].split("\t")[4] == words
    assert f"state      {words}\n" in rayhpc("show").stdout


def test_show_a_run_that_has_ended(home: Path) -> None:
    done = rayhpc("show", "20261121-100000-aaaaaaaa")
    directory = home / "rayhpc-runs/20261121-100000-aaaaaaaa"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(101.0))
    assert done.stdout.splitlines() == [
        "run        20261121-100000-aaaaaaaa",
        "state      the driver ended with 0; exit code 0",
        "job        17_3 (slurm)",
        f"began      {began}, up after 7.0 s, over after 19.4 s",
        "hosts      host0, host1, host2; 3 Ray nodes on 3 hosts",
        "versions   Ray 2.60.0, Python 3.11.7, rayhpc 0.1.0",
        "driver     train.py --lr 3e-4",
        f"directory  {directory}",
        "           cluster.json             what the ranks agreed on",
        "           events.jsonl             what happened when, a line each",
        "           outcome.json             how it ended",
        "next       rayhpc alloc logs 17",
        f"next       rayhpc runs plot {directory}",
    ]
    assert (done.exit_code, done.stderr) == (0, "")


def test_show_without_a_word_is_the_newest_which_runs(home: Path) -> None:
    lines = rayhpc("show").stdout.splitlines()
    assert lines[:2] == ["run        20261121-110000-bbbbbbbb", "state      running"]
    assert "next       rayhpc cluster show 20261121-110000-bbbbbbbb" in lines
    assert not [line for line in lines if "over after" in line or "outcome" in line]


def test_show_a_fault_with_its_parts_and_many_logs(home: Path) -> None:
    directory = record("20261121-120000-dddddddd", None)
    fault = Fault("the Ray node ended with 1", ExitCode.BRING_UP, "rank 7 on a", ("no Ray", "bye"), "see rank-7.log")
    outcome_file.write(directory, outcome_file.record(Outcome.of(fault), ["train.py"], 0.1, ["rank 1 is silent"]))
    for name in ("rank-0.log", "rank-2.log", "rank-9.log", "rank-10.log", "ray-logs.tar.gz"):
        (directory / name).write_text("")
    said = rayhpc("show", "20261121-120000-dddddddd").stdout
    for line in (
        "state      the Ray node ended with 1; exit code 71",
        "means      a Ray node did not start, or ended before the cluster was up",
        "where      rank 7 on a",
        "evidence   no Ray",
        "           bye",
        "to do      see rank-7.log",
        "problem    rank 1 is silent",
        "           rank-0.log … rank-10.log what `ray start` printed on a rank",
        f"next       tar tzf {directory}/ray-logs.tar.gz",
    ):
        assert f"{line}\n" in said


def test_show_for_programs(home: Path) -> None:
    shown = json.loads(rayhpc("show", "latest", "--json").stdout)
    assert (shown["id"], shown["outcome"]) == ("20261121-110000-bbbbbbbb", {})
    assert shown["cluster"]["run_id"] == "20261121-094408-01234567"


def test_show_a_run_that_was_lost_with_its_first_lines(home: Path) -> None:
    Path("rayhpc-runs/latest/events.jsonl").write_text("")
    done = rayhpc("show")
    assert done.exit_code == 0
    assert "driver     not known" in done.stdout


def test_list_of_nothing(tmp_path: Path) -> None:
    done = rayhpc("list", "--json", "--run-dir", str(tmp_path / "none"))
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])


def test_a_line_for_each_command(home: Path, hostile: str) -> None:
    record("20261121-120000-dddddddd", [hostile, "x" * 100])
    lines = rayhpc("list").stdout.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("20261121-120000-dddddddd\t")


@pytest.mark.parametrize(
    ("words", "drawn"),
    [
        ([], "bbbbbbbb"),
        (["latest"], "bbbbbbbb"),
        (["20261121-100000-aaaaaaaa"], "aaaaaaaa"),
        (["rayhpc-runs/20261121-100000-aaaaaaaa"], "aaaaaaaa"),
    ],
)
def test_plot(home: Path, words: list[str], drawn: str) -> None:
    done = rayhpc("plot", *words)
    (file,) = home.glob(f"rayhpc-runs/2*-{drawn}/timeline.png")
    assert (done.exit_code, done.stdout) == (0, f"{file}\n")
    assert file.read_bytes().startswith(PNG)
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{file} ." in done.stderr
    assert len(list(home.rglob("timeline.png"))) == 1


@pytest.mark.parametrize("name", [name for name in HOSTILE if "/" not in name])
def test_plot_to_a_file_of_any_name(home: Path, name: str) -> None:
    done = rayhpc("plot", "--output", name)
    assert (done.exit_code, done.stdout) == (0, f"{name}\n")
    assert Path(name).read_bytes().startswith(PNG)


def test_a_run_that_was_killed_in_the_middle_of_a_line(home: Path) -> None:
    with Path("rayhpc-runs/latest/events.jsonl").open("a") as events:
        events.write('{"at": 1795')
    assert rayhpc("plot").exit_code == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["nope"], "rayhpc: there is no run nope\n    in {home}/rayhpc-runs: 20261121-110000-bbbbbbbb, 2"),
        (["--run-dir", "empty"], "rayhpc: there is no run in {home}/empty\n"),
        (["--output", "no/where.png"], "rayhpc: no/where.png cannot be written: No such file or directory\n"),
    ],
)
def test_what_cannot_be_plotted(home: Path, words: list[str], what: str) -> None:
    done = rayhpc("plot", *words)
    assert (done.exit_code, done.stdout) == (int(ExitCode.CONFIGURATION), "")
    assert done.stderr.startswith(what.format(home=home))
    assert "\n  next: " in done.stderr


@pytest.mark.parametrize("content", ["", "{", "[]\n"])
def test_a_run_without_an_event(home: Path, content: str) -> None:
    Path("rayhpc-runs/latest/events.jsonl").write_text(content)
    done = rayhpc("plot")
    assert done.exit_code == int(ExitCode.CONFIGURATION)
    assert "has no event yet" in done.stderr


def test_without_matplotlib(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = rayhpc("plot")
    assert (done.exit_code, done.stdout) == (int(ExitCode.CONFIGURATION), "")
    assert "pip install 'rayhpc[rllib]'" in done.stderr
    assert not list(home.rglob("*.png"))


def test_events_that_are_gone(home: Path) -> None:
    Path("rayhpc-runs/latest/events.jsonl").unlink()
    with pytest.raises(RayhpcError, match="cannot be read") as caught:
        runs.events(runs.find("rayhpc-runs", ""))
    assert code_of(caught.value) == ExitCode.CONFIGURATION
