"""A driver that is not there: the error says what is, and which name was perhaps meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayhpc.bootstrap import driver
from rayhpc.errors import ExitCode, Fault, RayhpcError

OTHERWISE = "check the name and the path; a batch job may start in another directory than you do"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    experiments = ("experiments/ppo.py", "experiments/sac.py")
    for name in ("hello.py", "train.py", *experiments, "library/__init__.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "solve").write_text("#!/bin/sh\n")
    (tmp_path / "solve").chmod(0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def missing(*command: str) -> Fault:
    with pytest.raises(RayhpcError) as caught:
        driver.resolve(command)
    assert caught.value.fault.code == ExitCode.NOT_FOUND
    return caught.value.fault


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (["helo.py"], "hello.py"),
        (["Train.py"], "train.py"),
        (["train"], "train.py"),
        (["hello.pyy"], "hello.py"),
        (["solve"], "./solve"),
        (["./slove"], "./solve"),
        (["ppo.py"], "experiments/ppo.py"),
        (["experiments/pppo.py"], "experiments/ppo.py"),
        (["experimens/sac.py"], "experiments/sac.py"),
        (["-m", "libary.train"], "-m library.train"),
        (["-m", "helo"], "-m hello"),
    ],
    ids=" ".join,
)
def test_the_name_that_was_perhaps_meant(command: list[str], meant: str) -> None:
    assert missing(*command).next_step == f"did you mean {meant}?"


@pytest.mark.parametrize("command", [["quite_different.py"], ["notes"], ["-m", "nowhere"], ["/nowhere/a/b.py"]])
def test_no_name_is_guessed_that_is_not_alike(command: list[str]) -> None:
    assert missing(*command).next_step == OTHERWISE


def test_what_is_there_is_named(here: Path) -> None:
    assert missing("x.py").evidence == (f"working directory: {here}", "drivers here: hello.py, solve, train.py")
    assert missing("experiments/x.py").evidence[1] == "drivers in experiments: ppo.py, sac.py"
    assert missing(f"{here}/x/y.py").evidence[1:] == (
        f"{here}/x is no directory that can be entered",
        f"directories in {here}: experiments, library",
    )
    assert missing("x/y/z.py").evidence[1] == "x is no directory that can be entered"


def test_many_files_and_their_names_fit_on_a_screen(here: Path) -> None:
    for number in range(3000):
        (here / f"case{number:04}.py").touch()
    (here / "two\nlines.py").touch()
    os.mkfifo(here / "pipe")
    evidence = missing("quite_different.py").evidence[1]
    assert evidence.count(", ") == 7
    assert "\n" not in evidence
    assert len(evidence) < 200
