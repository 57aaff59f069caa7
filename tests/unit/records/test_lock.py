"""What two commands may write is written by one at a time, and who holds it is told."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from rayhpc.errors import RayhpcError
from rayhpc.jobs import address_file
from rayhpc.jobs.address_file import Address
from rayhpc.records import lock, registry
from tests.unit.making import entry

TURNS = 40


def _count(file: Path) -> None:
    for _ in range(TURNS):
        with lock.only_writer(file):
            file.write_text(str(int(file.read_text()) + 1))


def side_by_side(target: object, *arguments: tuple[object, ...]) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=target, args=each) for each in arguments]  # type: ignore[arg-type]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_nothing_is_lost_between_two_writers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("0")
    side_by_side(_count, *[(tmp_path / "file",)] * 3)
    assert (tmp_path / "file").read_text() == str(3 * TURNS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "file.lock"]


def test_who_holds_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_WRITE_SECONDS", 0.1)
    with (
        lock.only_writer(tmp_path / "file"),
        pytest.raises(RayhpcError, match=rf"file cannot be written: it is in use by pid {os.getpid()} on ") as caught,
        lock.only_writer(tmp_path / "file"),
    ):
        pytest.fail("two writers")
    assert caught.value.fault.next_step == f"try again; if that process is dead: rm {tmp_path}/file.lock"


def _save(file: Path, host: str) -> None:
    for turn in range(10):
        address_file.save(file, [Address(f"http://{host}:{8000 + turn}", f"{host}-{turn}")], ())


def test_addresses_of_two_commands_and_of_other_tools_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "addresses"
    file.write_text("# Cluster: theirs\n10.0.0.9:6379\n")
    side_by_side(_save, (file, "a"), (file, "b"))
    found = address_file.parse(file.read_text(), "f")
    assert {each.name for each in found} == {"theirs", *(f"{host}-{turn}" for turn in range(10) for host in "ab")}
    assert address_file.save(file, [], [each.url for each in found[1:]]) == 1
    assert file.read_text() == "# Cluster: theirs\n10.0.0.9:6379\n"
    assert address_file.save(file, [Address("http://10.0.0.2:1", "x")]) == 1


def _ask(number: int) -> None:
    for turn in range(10):
        registry.ask_to_stop(entry(), f"{number}-{turn}")


def test_every_request_to_end_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path))
    registry.add(entry(), "s3cret")
    side_by_side(_ask, (1,), (2,))
    assert len(registry.stops(entry())) == 20


def test_an_entry_that_was_made_anew_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path))
    registry.add(entry(pid=2), "s3cret")
    registry.forget_seen([entry(pid=1)])
    assert registry.every() == [entry(pid=2)]
    registry.forget_seen([entry(pid=2, deadline=5.0)])  # the end of its job has moved meanwhile
    assert registry.every() == []
