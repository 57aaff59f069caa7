"""The private directory at the end: a timeline is kept, all else removed, large trees without anybody waiting."""

from __future__ import annotations

import os
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rayhpc.bootstrap import private_directory
from rayhpc.model import Assignment
from tests.unit.making import assignment, cluster, node, until


@pytest.fixture
def private(tmp_path: Path) -> Path:
    made = tmp_path / "rh-01234567-0"
    (made / "r" / "session_latest").mkdir(parents=True)
    (made / "token").write_text("secret")
    return made


def second(directory: Path, address: str = "10.0.0.2") -> Assignment:
    """Rank 1's, whose private directory is there."""
    own = node(1, temp_dir=str(directory / "rh-01234567-1"), address=address)
    Path(own.temp_dir).mkdir(exist_ok=True)
    return assignment(cluster([node(0), own]), rank=1)


def test_rank_0s_directory_is_a_link_on_other_hosts(tmp_path: Path) -> None:
    own = second(tmp_path)
    link = tmp_path / "rh-01234567-0"
    assert private_directory.link(own) == [str(link)]
    (tmp_path / "rh-01234567-1" / "token").write_text("secret")
    assert (link / "token").read_text() == "secret"
    assert private_directory.link(own) == [str(link)]  # before a restart
    private_directory.unlink(own)
    assert not link.is_symlink()


def test_on_its_own_host_or_where_hosts_share_directories_it_stays_as_it_is(private: Path) -> None:
    for own in (second(private.parent, address="10.0.0.1"), second(private.parent)):
        assert private_directory.link(own) == []
        private_directory.unlink(own)
        assert (private / "token").read_text() == "secret"


def test_the_link_is_its_makers(tmp_path: Path) -> None:
    first = second(tmp_path)
    third = replace(first, node=node(2, temp_dir=str(tmp_path / "rh-01234567-2"), address="10.0.0.2"))
    assert private_directory.link(first)
    assert private_directory.link(third) == []
    private_directory.unlink(third)
    assert (tmp_path / "rh-01234567-0").is_symlink()


def test_it_is_gone(private: Path) -> None:
    assert private_directory.remove(private) == []
    assert list(private.parent.iterdir()) == []
    assert private_directory.remove(private) == []


def test_a_large_one_is_removed_without_anybody_waiting(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that a scheduler's SIGTERM does not end. In the place of rm is a program that takes its time."""
    programs, told, go = (private.parent / name for name in ("bin", "told", "go"))
    programs.mkdir()
    (programs / "rm").write_text(
        f'#!/bin/sh\necho $$ > {told}\nwhile ! test -e {go}; do sleep 0.02; done\nexec /bin/rm "$@"\n'
    )
    (programs / "rm").chmod(0o700)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(private_directory, "_PATIENCE_SECONDS", 0.2)
    began = time.monotonic()
    assert private_directory.remove(private) == []
    assert time.monotonic() - began < 5
    assert not private.exists()
    behind = private.with_name("rh-01234567-0.removed")
    assert behind.exists()
    assert until(lambda: told.exists() and told.read_text().endswith("\n"))
    os.kill(int(told.read_text()), signal.SIGTERM)
    go.touch()
    assert until(lambda: not behind.exists())


def test_it_is_gone_where_there_is_no_shell(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image that has only Python."""
    monkeypatch.setenv("PATH", str(private.parent / "none"))
    assert private_directory.remove(private) == []
    assert list(private.parent.iterdir()) == []


def test_what_cannot_be_removed_is_told(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_directory, "_REMOVER", ("true",))
    assert private_directory.remove(private) == [f"{private}.removed could not be removed"]


def test_a_timeline_is_kept(private: Path, tmp_path: Path) -> None:
    """`ray timeline` writes it into Ray's own directory, which goes with the run."""
    run = tmp_path / "run"
    run.mkdir()
    (private / "r" / "ray-timeline-2026-11-28_05-00-00.json").write_text("[]")
    assert private_directory.keep_timelines(private, run) == []
    (kept,) = run.iterdir()
    assert (kept.name, kept.read_text()) == ("ray-timeline-2026-11-28_05-00-00.json", "[]")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_timeline_that_cannot_be_kept_is_told(private: Path, tmp_path: Path) -> None:
    (private / "r" / "ray-timeline-1.json").write_text("[]")
    (problem,) = private_directory.keep_timelines(private, tmp_path / "none")
    assert problem == f"ray-timeline-1.json could not be kept in {tmp_path}/none: No such file or directory"
