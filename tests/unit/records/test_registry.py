"""The registry: an entry is private, there whole or not at all, found by a part of its name, and none is lost."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.model import Certificate, ClusterEntry
from rayhpc.records import registry
from tests.unit.making import entry
from tests.unit.records.test_run_directory import files_limited_to


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def added(**changes: Any) -> ClusterEntry:
    made = entry(**changes)
    registry.add(made, "s3cret")
    return made


def modes(place: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()}


# ------------------------------------------------------------------------------------------------------------ where


def test_the_place_is_the_users_choice_else_the_state_directory(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    assert registry.folder() == state / "clusters"
    monkeypatch.delenv("RAYHPC_STATE_DIR")
    monkeypatch.setenv("HOME", "/home/ada")
    assert registry.folder() == Path("/home/ada/.local/state/rayhpc/clusters")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert registry.folder() == Path("/state/rayhpc/clusters")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert registry.folder() == Path("/home/ada/.local/state/rayhpc/clusters")
    monkeypatch.setenv("RAYHPC_STATE_DIR", "~/elsewhere")
    assert registry.folder() == Path("/home/ada/elsewhere/clusters")


def test_without_a_home_the_place_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_STATE_DIR", "~no-such-account/x")
    with pytest.raises(RayhpcError, match="no place for the registry") as caught:
        registry.folder()
    assert "RAYHPC_STATE_DIR" in caught.value.fault.next_step


# ------------------------------------------------------------------------------------------------------- an entry


def test_what_was_added_is_read_again(state: Path) -> None:
    made = added(command=("./driver", "naïve-日本-🙂", "\udcff", "new\nline"), gpus=0, deadline=0)
    assert registry.every() == [made]
    assert registry.token_file(made).read_text() == "s3cret"
    assert "s3cret" not in (state / "clusters" / made.id / "cluster.json").read_text()
    assert registry.authentication(made) == {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(state / "clusters" / made.id / "token"),
    }


def test_an_entry_is_for_its_owner_alone_whatever_the_umask(state: Path) -> None:
    before = os.umask(0)
    try:
        made = entry(tls=True)
        registry.add(made, "s3cret", Certificate("chain", "key"))
    finally:
        os.umask(before)
    place = state / "clusters" / made.id
    assert [stat.S_IMODE(path.stat().st_mode) for path in (state, state / "clusters", place)] == [0o700] * 3
    assert modes(place) == {0o600}
    assert {path.name for path in place.iterdir()} == {
        "cluster.json",
        "heartbeat",
        "stop",
        "tls.crt",
        "tls.key",
        "token",
    }
    variables = registry.authentication(made)
    assert Path(variables["RAY_TLS_SERVER_KEY"]).read_text() == "key"
    assert Path(variables["RAY_TLS_CA_CERT"]).read_text() == "chain"


def test_a_second_entry_of_the_same_id_is_refused() -> None:
    made = added()
    with pytest.raises(RayhpcError, match="File exists"):
        registry.add(made, "other")
    assert registry.token_file(made).read_text() == "s3cret"


def _register(place: str, number: int, gate: Any) -> None:
    os.environ["RAYHPC_STATE_DIR"] = place
    gate.wait(60)
    added(id=f"20261121-094408-{number:08x}")


def test_fifty_runs_register_at_once_and_none_is_lost(state: Path) -> None:
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(50)
    runs = [fork.Process(target=_register, args=(str(state), number, gate)) for number in range(50)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0] * 50
    assert [found.id for found in registry.every()] == [f"20261121-094408-{number:08x}" for number in range(50)]


# ------------------------------------------------------------------------------------------------ what cannot work


def test_a_place_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(RayhpcError, match="Not a directory") as caught:
        added()
    assert caught.value.fault.code == ExitCode.CONFIGURATION
    assert "--no-register" in caught.value.fault.next_step


def test_a_link_in_its_place_is_refused(state: Path, tmp_path: Path) -> None:
    state.mkdir()
    (tmp_path / "theirs").mkdir()
    (state / "clusters").symlink_to(tmp_path / "theirs")
    with pytest.raises(RayhpcError, match="it is a link"):
        added()
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_home_that_is_a_link_is_fine(state: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    state.symlink_to(tmp_path / "scratch")
    made = added()
    assert registry.every() == [made]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
@pytest.mark.parametrize("whose", ["clusters", "."])
def test_a_place_of_somebody_else_is_refused(state: Path, whose: str) -> None:
    (state / "clusters").mkdir(parents=True)
    os.chown(state / whose, 54321, 54321)
    with pytest.raises(RayhpcError, match="belongs to another account"):
        added()
    assert list((state / "clusters").iterdir()) == []


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o770, True), (0o1777, False), (0o755, False)])
def test_every_directory_above_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, refused: bool
) -> None:
    far = tmp_path / "far"
    (far / "near").mkdir(parents=True, mode=0o755)
    far.chmod(mode)
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(far / "near" / "state"))
    if refused:
        with pytest.raises(RayhpcError, match=f"{far} is writable for others without the sticky bit"):
            added()
    else:
        added()


def test_a_place_in_which_others_may_rename_is_refused(state: Path) -> None:
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(RayhpcError, match="is writable for others"):
        added()
    state.chmod(0o1777)
    made = added()
    assert registry.every() == [made]


def test_a_full_file_system_leaves_no_half_entry(state: Path) -> None:
    with files_limited_to(100), pytest.raises(RayhpcError, match="File too large"):
        added()
    assert list((state / "clusters").iterdir()) == []


# ----------------------------------------------------------------------------------------------------- reading them


def test_no_registry_has_no_entries() -> None:
    assert registry.every() == []
    with pytest.raises(RayhpcError, match="no cluster is registered"):
        registry.find("")


def test_the_oldest_comes_first() -> None:
    late, early = added(id="a", started_at=2.0), added(id="b", started_at=1.0)
    assert registry.every() == [early, late]
    assert registry.find("") == late


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda text: text[:-30],
        lambda _: "[]",
        lambda _: "\xff",
        lambda text: text.replace('"nodes": 2', '"nodes": "2"'),
        lambda text: text.replace('"nodes": 2', '"nodes": true'),
        lambda text: text.replace('"tls": false', '"tls": 0'),
        lambda text: text.replace('"host"', '"guest"'),
        lambda text: text.replace("0a0b0c0d", "../escape"),
        lambda text: text.replace('"command": []', '"command": 7'),
    ],
)
def test_what_cannot_be_read_is_left_out(state: Path, spoilt: Any) -> None:
    good, bad = added(id="good"), added(id="0a0b0c0d", command=())
    record = state / "clusters" / bad.id / "cluster.json"
    assert spoilt(record.read_text()) != record.read_text()
    record.write_text(spoilt(record.read_text()), encoding="latin-1")
    assert registry.every() == [good]


def test_an_entry_that_is_not_whole_yet_is_left_out(state: Path) -> None:
    added()
    (state / "clusters" / "half").mkdir()
    (state / "clusters" / "half" / "token").write_text("s3cret")
    (state / "clusters" / "file").write_text("")
    assert len(registry.every()) == 1


def test_fields_of_a_later_version_are_ignored(state: Path) -> None:
    made = added()
    record = state / "clusters" / made.id / "cluster.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "colour": "red"}))
    assert registry.every() == [made]


@pytest.mark.parametrize("word", ["20261121-094408-aaaa1111", "20261121-094408-a", "aaaa1111", "77.server", "77"])
def test_a_part_of_its_name_finds_it(word: str) -> None:
    wanted = added(id="20261121-094408-aaaa1111", batch_job_id="77.server")
    added(id="20261121-094409-bbbb2222", started_at=9.0)
    assert registry.find(word) == wanted


def test_the_clusters_of_an_array_are_told_apart_by_their_tasks() -> None:
    first, second = (added(id=f"run-{task}", batch_job_id=f"17_{task}") for task in (0, 1))
    assert (registry.find("17_0"), registry.find("17_1")) == (first, second)
    with pytest.raises(RayhpcError, match="2 clusters are meant by 17"):
        registry.find("17")
    registry.forget(second)
    assert registry.find("17") == first


@pytest.mark.parametrize(
    ("word", "sentence"), [("2026", "2 clusters are meant by 2026"), ("nowhere", "there is no cluster nowhere")]
)
def test_what_is_not_clear_is_told_with_what_there_is(word: str, sentence: str) -> None:
    added(id="20261121-094408-aaaa1111")
    added(id="20261121-094409-bbbb2222")
    with pytest.raises(RayhpcError, match=sentence) as caught:
        registry.find(word)
    assert "known: 20261121-094409-bbbb2222, 20261121-094408-aaaa1111" in caught.value.fault.evidence


# ------------------------------------------------------------------------------------------- heartbeat, stop, forget


def test_a_heartbeat_has_an_age(state: Path) -> None:
    made = added()
    assert registry.heartbeat_age(made) < 60
    past = time.time() - 500
    os.utime(state / "clusters" / made.id / "heartbeat", (past, past))
    assert 499 < registry.heartbeat_age(made) < 560
    registry.beat(made)
    assert registry.heartbeat_age(made) < 60
    future = time.time() + 500
    os.utime(state / "clusters" / made.id / "heartbeat", (future, future))
    assert registry.heartbeat_age(made) == 0.0
    registry.forget(made)
    assert registry.heartbeat_age(made) == math.inf


def test_requests_to_stop_are_lines() -> None:
    made = added()
    assert registry.stops(made) == ()
    registry.ask_to_stop(made, "ada on login1")
    registry.ask_to_stop(made, "two\nlines")
    assert registry.stops(made) == ("ada on login1", "two lines")


def test_what_has_gone_is_not_made_again(state: Path) -> None:
    made = added()
    assert registry.exists(made)
    registry.forget(made)
    registry.forget(made)
    assert not registry.exists(made)
    for act in (registry.beat, registry.stops, lambda gone: registry.ask_to_stop(gone, "ada")):
        with pytest.raises(FileNotFoundError):
            act(made)
    assert list((state / "clusters").iterdir()) == []


def test_forget_removes_one_entry_alone() -> None:
    first, second = added(id="first"), added(id="second")
    registry.forget(first)
    assert registry.every() == [second]
    assert registry.token_file(second).exists()


def test_a_link_in_the_place_of_an_entry_is_told_and_nothing_behind_it_removed(state: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (state / "clusters").mkdir(parents=True)
    (state / "clusters" / "x").symlink_to(tmp_path / "precious")
    with pytest.raises(RayhpcError, match="could not be removed"):
        registry.forget(entry(id="x"))
    assert (tmp_path / "precious" / "file").exists()


def test_every_field_is_in_the_record(state: Path) -> None:
    made = added()
    record = json.loads((state / "clusters" / made.id / "cluster.json").read_text())
    assert set(record) == {field.name for field in dataclasses.fields(ClusterEntry)}
