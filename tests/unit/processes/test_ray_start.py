"""`ray start` before there is anything to say to it. Its program is a shell's, which starts in a millisecond."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayhpc.processes import environment, ray_start
from rayhpc.processes.children import until_gone
from rayhpc.processes.keeper_process import Speaking
from rayhpc.processes.ray_start import RayStart
from tests.unit.making import assignment, cluster, until

Begin = Callable[[str], RayStart]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    made: list[RayStart] = []

    def begin(script: str) -> RayStart:
        monkeypatch.setattr(ray_start, "COMMAND", ("sh", "-c", script))
        made.append(RayStart(Speaking("node")))
        made[-1].warm_up({"PATH": os.environ["PATH"], "KNOWN": "before", "CHANGED": "before"})
        return made[-1]

    yield begin
    for child in made:
        child.end()
    assert not until_gone(made, 10.0)


def words(child: RayStart, text: bytes) -> bool:
    found = b""

    def look() -> bool:
        nonlocal found
        found += child.first_words()
        return text in found

    return until(look)


def test_it_begins_at_once_and_waits(begin: Begin) -> None:
    child = begin("echo $KNOWN; cat")
    assert words(child, b"before\n")
    assert not child.poll()
    assert not child.told


def test_it_is_told_what_it_does_not_know_and_where_its_words_go(begin: Begin, tmp_path: Path) -> None:
    child = begin(f"cat > {tmp_path}/word")
    child.tell(["start", "--head"], {"KNOWN": "before", "CHANGED": "after", "NEW": "x"}, tmp_path / "log")
    assert child.told
    assert not until_gone([child], 10.0)
    assert json.loads((tmp_path / "word").read_text()) == {
        "arguments": ["start", "--head"], "environment": {"CHANGED": "after", "NEW": "x"}, "log": f"{tmp_path}/log",
    }  # fmt: skip


def test_it_begins_once(begin: Begin) -> None:
    child = begin("echo begun; cat")
    child.warm_up({"KNOWN": "another"})
    child.tell([], {}, Path("log"))
    assert not until_gone([child], 10.0)
    assert child.first_words().startswith(b"begun\n{")


def test_what_it_said_before_it_ended_is_kept(begin: Begin) -> None:
    child = begin("echo no Ray here >&2; exit 3")
    assert not until_gone([child], 10.0)
    assert (child.code, child.first_words(), child.first_words()) == (3, b"no Ray here\n", b"")


@pytest.mark.parametrize("memory", [True, False])
def test_it_may_say_more_than_a_pipe_holds(begin: Begin, memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONVERBOSE=1 makes 200 KB of an import, and nobody reads before there is something to tell."""
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
    child = begin("head -c 1000000 /dev/zero; echo done; cat")
    assert words(child, b"\0done\n")
    child.tell([], {}, Path("log"))
    assert not until_gone([child], 10.0)
    assert child.first_words().startswith(b"{")


ENVIRONS: list[dict[str, str]] = [
    {},
    {"RAY_ADDRESS": "x", "RAY_AUTH_MODE": "disabled", "RAY_LOG": "y", "PATH": "/bin", "PMI_RANK": "0"},
    {"http_proxy": "p", "no_proxy": "n", "CUDA_VISIBLE_DEVICES": "0,1", "SPT_NOENV": "", "SLURM_PROCID": "3"},
]


@pytest.mark.parametrize("environ", ENVIRONS)
def test_what_is_known_early_is_part_of_what_is_known_later(environ: dict[str, str]) -> None:
    """Only the rest is told: a variable that went would stay. Ray reads RAY_AUTH_MODE when it is imported."""
    spec = cluster()
    early, later = environment.of_import(environ), environment.of_daemons(environ, assignment(spec), spec.head)
    assert set(early) <= set(later)
    assert early["RAY_AUTH_MODE"] == later["RAY_AUTH_MODE"] == "token"
    settings = [name for name in early if name.startswith("RAY_")]
    assert [early[name] for name in settings] == [later[name] for name in settings]
