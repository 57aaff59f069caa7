"""Which command the user's words are, found before anything is started, with a shell's exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rayhpc.bootstrap import driver
from rayhpc.errors import ExitCode, Fault, RayhpcError


def refused(*command: str) -> Fault:
    with pytest.raises(RayhpcError) as caught:
        driver.resolve(command)
    return caught.value.fault


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_script_is_run_by_this_interpreter(here: Path) -> None:
    (here / "train.py").write_text("")
    assert driver.resolve(["train.py", "--lr", "3"]) == [sys.executable, "-u", "train.py", "--lr", "3"]


def test_a_script_needs_no_execute_permission_and_any_name(here: Path, hostile: str) -> None:
    (here / f"x{hostile}.py").write_text("")
    (here / f"x{hostile}.py").chmod(0o600)
    assert driver.resolve([f"x{hostile}.py", hostile])[2:] == [f"x{hostile}.py", hostile]


def test_a_module_is_run_by_this_interpreter() -> None:
    command = driver.resolve(["-m", "package.module", "-x"])
    assert (command[0], command[-3:]) == (sys.executable, ["-m", "package.module", "-x"])


def test_a_program_is_found_on_the_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "bin").mkdir()
    program = here / "bin" / "solve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(here / "bin"))
    assert driver.resolve(["solve", "-n", "4"]) == [str(program), "-n", "4"]
    assert driver.resolve(["./bin/solve"]) == ["./bin/solve"]


@pytest.mark.parametrize("name", ["nowhere.py", "./nowhere", "no-such-program-anywhere", "a/b/c.py"])
def test_what_is_not_there_is_127(here: Path, name: str) -> None:
    fault = refused(name)
    assert fault.code == ExitCode.NOT_FOUND
    assert name in fault.what
    assert str(here) in fault.evidence[0]


def test_what_cannot_be_executed_is_126(here: Path) -> None:
    (here / "program").write_text("#!/bin/sh\n")
    (here / "directory").mkdir()
    (here / "directory.py").mkdir()
    for name, words in (
        ("./program", "is not executable"),
        ("./directory", "is a directory"),
        ("directory.py", "read"),
    ):
        fault = refused(name)
        assert fault.code == ExitCode.NOT_EXECUTABLE
        assert words in fault.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_script_that_cannot_be_read_is_126(here: Path) -> None:
    (here / "train.py").touch(0o000)
    assert refused("train.py").code == ExitCode.NOT_EXECUTABLE


def test_what_the_kernel_refuses_is_126_with_its_reason() -> None:
    fault = driver.refusal(["./solve"], (8, "Exec format error"))
    assert fault.code == ExitCode.NOT_EXECUTABLE
    assert "./solve cannot be executed: Exec format error" in fault.what
