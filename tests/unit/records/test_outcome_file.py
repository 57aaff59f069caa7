"""The outcome has its room from the beginning, is written once by whoever comes first, and its absence has an age."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rayhpc.errors import ExitCode, Fault
from rayhpc.model import Outcome
from rayhpc.records import outcome_file
from rayhpc.records.outcome_file import Pulse
from tests.unit.making import until
from tests.unit.records.test_run_directory import files_limited_to

ENDED = outcome_file.record(Outcome(7, "the driver ended with 7"), ["train.py"], 0.2)


def read(directory: Path) -> Any:
    return json.loads((directory / "outcome.json").read_text())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_room_becomes_the_outcome(tmp_path: Path) -> None:
    Pulse(tmp_path).close()
    assert (tmp_path / ".outcome-room").stat().st_size == outcome_file.ROOM_BYTES
    outcome_file.write(tmp_path, ENDED)
    assert names(tmp_path) == ["outcome.json"]
    assert read(tmp_path) == ENDED
    assert (tmp_path / "outcome.json").stat().st_mode & 0o777 == 0o600


def test_a_second_outcome_replaces_the_first(tmp_path: Path) -> None:
    Pulse(tmp_path).close()
    outcome_file.write(tmp_path, outcome_file.record(Outcome(7, "the driver ended with 7"), ["train.py"]))
    outcome_file.write(tmp_path, ENDED)
    assert read(tmp_path) == ENDED


def test_where_nothing_else_can_be_written_the_room_still_can(tmp_path: Path) -> None:
    Pulse(tmp_path).close()
    fault = Fault("the head is lost", ExitCode.HEAD_LOST, "rank 0 on a", ("its last words",) * 10, "look")
    long = outcome_file.record(Outcome.of(fault), ["x" * 100_000])
    with files_limited_to(outcome_file.ROOM_BYTES):
        outcome_file.write(tmp_path, long)
    assert read(tmp_path)["command"] == []
    assert read(tmp_path)["fault"]["where"] == "rank 0 on a"


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        outcome_file.write(tmp_path / "gone", ENDED)


def test_the_age_of_the_last_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome_file.silence(tmp_path) is None
    monkeypatch.setattr(outcome_file, "_BEAT_SECONDS", 0.02)
    pulse = Pulse(tmp_path)
    os.utime(tmp_path / ".outcome-room", (time.time() - 500,) * 2)
    assert until(lambda: (outcome_file.silence(tmp_path) or 0) < 100)
    pulse.close()


def test_no_sign_brings_the_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_file, "_BEAT_SECONDS", 0.01)
    beats: list[object] = []
    ordinary = os.utime
    monkeypatch.setattr(os, "utime", lambda path: (beats.append(path), ordinary(path)))
    pulse = Pulse(tmp_path)
    outcome_file.write(tmp_path, ENDED)
    seen = len(beats)
    assert until(lambda: len(beats) > seen + 2)
    pulse.close()
    assert names(tmp_path) == ["outcome.json"]
