"""A run in the registry: entered, beating, asked to end, removed; what goes wrong there costs the run nothing."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from rayhpc.model import AliveNode
from rayhpc.records import registration, registry
from rayhpc.records.registration import Registration
from tests.unit.making import entry, until


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(registration, "_LOOK_SECONDS", 0.01)
    return tmp_path / "state"


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """The SIGTERMs that have come."""
    came: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        came.append(signum)

    before = signal.signal(signal.SIGTERM, note)
    yield came
    signal.signal(signal.SIGTERM, before)


def begun(told: list[str]) -> Registration:
    """A registration whose entry is there."""
    made = Registration(entry(), "s3cret", None, told.append)
    assert until(lambda: registry.every() == [entry()])
    return made


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "registration"]


def test_a_run_is_there_until_it_is_closed() -> None:
    told: list[str] = []
    made = begun(told)
    assert registry.token_file(entry()).read_text() == "s3cret"
    assert made.close() == []
    assert (registry.every(), told, threads()) == ([], [], [])
    assert not registry.exists(entry())


def test_it_beats(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(registration, "_BEAT_SECONDS", 0.02)
    made = begun([])
    os.utime(state / "clusters" / entry().id / "heartbeat", (1.0, 1.0))
    assert until(lambda: registry.heartbeat_age(entry()) < 60)
    made.close()


@pytest.mark.parametrize(("end", "written"), [(1_800_000_000.0, 1_800_000_000.0), (math.inf, 0.0)])
def test_it_follows_the_end_of_the_job(end: float, written: float) -> None:
    before = entry(deadline=1_795_300_000.0)
    made = Registration(before, "s3cret", None, [].append)
    assert until(lambda: registry.every() == [before])
    made.move_end(end)
    assert until(lambda: registry.every() == [entry(deadline=written)])
    assert made.close() == []
    assert registry.every() == []


def test_it_follows_the_size_of_the_cluster() -> None:
    made = begun([])
    made.resize([AliveNode(0, "10.0.0.1", 2.0, 1.0), AliveNode(None, "10.0.0.2", 2.0, 0.0)], ("a line",))
    assert until(lambda: registry.every() == [entry(nodes=2, cpus=4.0, gpus=1.0, guests=("a line",))])
    made.close()


def test_an_entry_that_was_forgotten_does_not_come_back_with_another_end(state: Path) -> None:
    made = begun([])
    registry.forget(entry())
    made.move_end(1_800_000_000.0)
    assert until(lambda: threads() == [])
    assert list((state / "clusters").iterdir()) == []


def test_each_request_is_a_signal(signals: list[int]) -> None:
    told: list[str] = []
    made = begun(told)
    registry.ask_to_stop(entry(), "ada on login1")
    assert until(lambda: signals == [signal.SIGTERM])
    registry.ask_to_stop(entry(), "bob on login2")
    assert until(lambda: signals == [signal.SIGTERM] * 2)
    made.close()
    assert told == ["the end was asked for by ada on login1", "the end was asked for by bob on login2"]


def test_a_run_that_cannot_be_entered_goes_on_with_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "file"))
    told: list[str] = []
    made = Registration(entry(), "s3cret", None, told.append)
    assert until(lambda: not threads())
    (line,) = told
    assert line.startswith("WARNING: the registry of clusters ")
    assert line.endswith("; name another directory with RAYHPC_STATE_DIR, or do without: --no-register")
    assert "\n" not in line
    assert made.close() == []


def test_no_home_is_such_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_STATE_DIR", "~no-such-account")
    told: list[str] = []
    made = Registration(entry(), "s3cret", None, told.append)
    assert until(lambda: not threads())
    assert [line.startswith("WARNING: there is no place for the registry") for line in told] == [True]
    assert made.close() == []


def test_a_run_that_was_forgotten_stays_so() -> None:
    told: list[str] = []
    made = begun(told)
    registry.forget(entry())
    assert until(lambda: not threads())
    assert (made.close(), told, registry.every()) == ([], [], [])


def test_a_file_system_that_hangs_keeps_nobody(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    """A FIFO keeps whoever reads it, as a file server does that has gone."""
    monkeypatch.setattr(registration, "_CLOSE_SECONDS", 0.1)
    made = begun([])
    hung = state / "clusters" / entry().id / "stop"
    os.mkfifo(hung.with_name("fifo"), 0o600)
    hung.with_name("fifo").replace(hung)
    writer: list[int] = []
    assert until(lambda: _opened(hung, writer))
    (problem,) = made.close()
    assert "the registry does not answer" in problem
    os.close(*writer)
    assert until(lambda: not threads())


def _opened(fifo: Path, writer: list[int]) -> bool:
    """Open a FIFO for writing; False while nobody reads it."""
    try:
        writer.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
