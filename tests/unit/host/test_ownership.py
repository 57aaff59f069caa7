"""A directory that others rule is known, by any directory above it."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayhpc.host import ownership
from rayhpc.host.ownership import ruled_by_others

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """A directory of ours, two below one whose mode a test chooses."""
    made = tmp_path / "far" / "between" / "near"
    made.mkdir(parents=True, mode=0o755)
    return made


@pytest.mark.parametrize(
    ("mode", "ruled"), [(0o777, True), (0o770, True), (0o702, True), (0o1777, False), (0o3770, False), (0o755, False)]
)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_every_directory_above_counts(near: Path, mode: int, ruled: bool, levels: int) -> None:
    place = [near, *near.parents][levels]
    place.chmod(mode)
    expected = f"{place} is writable for others without the sticky bit" if ruled else ""
    assert ruled_by_others(near) == expected


def test_the_way_of_a_link_counts_and_the_place_where_it_leads(near: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    link = tmp_path / "open" / "link"
    link.symlink_to(near)
    assert ruled_by_others(link) == ""
    (tmp_path / "open").chmod(0o777)
    assert ruled_by_others(link).startswith(f"{tmp_path / 'open'} is writable")
    (tmp_path / "open").chmod(0o755)
    near.parent.chmod(0o777)
    assert ruled_by_others(link).startswith(f"{near.parent} is writable")


@AS_ROOT
def test_another_account_is_named(near: Path, tmp_path: Path) -> None:
    os.chown(near, 54321, -1)
    assert ruled_by_others(near) == f"{near} belongs to another account"
    os.chown(near, 65534, -1)
    assert ruled_by_others(near) == ""
    link = tmp_path / "link"
    link.symlink_to(near)
    os.chown(link, 54321, -1, follow_symlinks=False)
    assert ruled_by_others(link) == f"the link {link} belongs to another account"


@AS_ROOT
@pytest.mark.parametrize(
    ("name", "members", "ruled"),
    [("ada", [], False), ("ada", ["ada"], False), ("ada", ["eve"], True), ("lab", [], True)],
)
def test_a_group_of_ones_own_is_nobody_else(
    near: Path, monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], ruled: bool
) -> None:
    os.chown(near, -1, 54321)
    near.chmod(0o775)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="ada", pw_gid=54321))
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name=name, gr_mem=members))
    assert bool(ruled_by_others(near)) == ruled


def test_a_file_is_for_us_alone(near: Path) -> None:
    file = near / "file"
    file.write_text("")
    file.chmod(0o600)
    assert ownership.not_ours_alone(file.stat()) == ""
    file.chmod(0o640)
    assert ownership.not_ours_alone(file.stat()) == "others may use it (mode 640)"
