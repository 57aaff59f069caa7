"""Which command the user's words are, found before anything is started, with a shell's exit codes."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rayhpc.bootstrap import driver
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.proc import until_gone

from .making import assignment, cluster, until


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
    program = driver.resolve(["train.py", "--lr", "3"])
    assert program == driver.Program([sys.executable, "-u", "train.py", "--lr", "3"], python=True)


def test_a_script_needs_no_execute_permission_and_any_name(here: Path, hostile: str) -> None:
    (here / f"x{hostile}.py").write_text("")
    (here / f"x{hostile}.py").chmod(0o600)
    assert driver.resolve([f"x{hostile}.py", hostile]).argv[2:] == [f"x{hostile}.py", hostile]


@pytest.mark.parametrize("module", ["package.module", "json.tool", "zipapp"])
def test_a_module_is_run_by_this_interpreter(here: Path, module: str) -> None:
    (here / "package").mkdir()
    (here / "package" / "__init__.py").write_text("raise AssertionError('imported')")
    command, python = driver.resolve(["-m", module, "-x"])
    assert (command[0], command[-3:], python) == (sys.executable, ["-m", module, "-x"], True)


@pytest.mark.parametrize("module", ["no_such_package.train", "nowhere", "", ".train"])
def test_a_module_that_nobody_has_is_127(module: str) -> None:
    fault = refused("-m", module)
    assert fault.code == ExitCode.NOT_FOUND
    assert f"module {module} was not found" in fault.what


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (b"x = 1\ndef f(:\n", 2),
        (b"if True:\n\tx = 1\n        y = 2\n", 3),
        (b"print 'python 2'\n", 1),
        (b"x = '\xff'\n", 1),
        ("x = 1\ny = ß!\n".encode(), 2),
    ],
)
def test_a_syntax_error_is_126_with_its_line(here: Path, source: bytes, line: int) -> None:
    (here / "train.py").write_bytes(source)
    fault = refused("train.py")
    assert fault.code == ExitCode.NOT_EXECUTABLE
    assert fault.what == "the driver train.py has a syntax error"
    assert fault.evidence[0].strip().startswith('File "train.py", line')
    assert fault.next_step == f"correct line {line}"


def test_a_syntax_error_in_a_long_line_fits_on_a_screen(here: Path) -> None:
    (here / "train.py").write_text("x = [" + "1, " * 10000 + "\n")
    assert max(map(len, refused("train.py").evidence)) <= 200


@pytest.mark.parametrize(
    "source",
    [
        b"# -*- coding: latin-1 -*-\nx = '\xff'\n",
        b"\xef\xbb\xbfx = 1\r\n",
        b"x = '\\d'\n",  # only a warning, which is the driver's own to print
        b"from __future__ import annotations\nimport nowhere\n",
        b"(" * 5000 + b")" * 5000,
        b"",
        b"PK\x03\x04\0\0 an archive",
    ],
)
def test_what_python_may_run_is_not_refused(here: Path, source: bytes, recwarn: pytest.WarningsRecorder) -> None:
    (here / "train.py").write_bytes(source)
    if source.startswith(b"((("):
        assert refused("train.py").what.endswith("a syntax error")  # too many nested parentheses
    else:
        driver.resolve(["train.py"])
    assert not recwarn.list


def test_an_archive_is_run_and_not_held_back(here: Path) -> None:
    """It brings modules of its own."""
    with zipfile.ZipFile(here / "train.py", "w") as archive:
        archive.writestr("__main__.py", "")
    assert driver.resolve(["train.py"]) == driver.Program([sys.executable, "-u", "train.py"], python=False)


def test_a_program_is_found_on_the_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "bin").mkdir()
    program = here / "bin" / "solve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(here / "bin"))
    assert driver.resolve(["solve", "-n", "4"]) == driver.Program([str(program), "-n", "4"], python=False)
    assert driver.resolve(["./bin/solve"]).argv == ["./bin/solve"]


def test_an_interpreter_that_the_user_names_is_run_as_it_is() -> None:
    """Its options may be such that nothing could hold it back."""
    assert not driver.resolve([sys.executable, "-u", "-S", "train.py"]).python


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
    os.mkfifo(here / "pipe.py")
    for name, words in (
        ("./program", "is not executable"),
        ("./directory", "is a directory"),
        ("pipe.py", "is no file"),
        ("directory.py", "is a directory"),
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


def test_arguments_that_are_too_long_are_126_with_the_limits() -> None:
    fault = driver.refusal(["./solve"], (7, "Argument list too long"))
    assert (fault.code, fault.what) == (126, "the driver ./solve cannot be executed: Argument list too long")
    assert "128 KiB" in fault.next_step


STARTED = "import os; print(os.environ['RAY_ADDRESS'])\n"


@pytest.mark.parametrize("happens", ["nothing", "the head moves", "somebody ends it"])
def test_the_driver_begins_when_it_may(here: Path, happens: str, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "train.py").write_text(STARTED)
    program, spec = driver.resolve(["train.py"]), cluster()
    own = assignment(spec)
    child = driver.stand_by(program, own, spec)
    assert until(lambda: not child.poll() and child.pid > 0)
    if happens == "the head moves":
        spec = replace(spec, port=spec.port + 1)
    elif happens == "somebody ends it":
        os.kill(child.pid, signal.SIGKILL)
        assert until(child.poll)
    started = driver.start(child, program, own, spec)
    assert not until_gone([started], 30.0)
    assert (started.code, started is child, child.gone) == (0, happens == "nothing", True)
    assert capfd.readouterr().out == f"{spec.address}\n"


def test_a_program_of_the_users_own_begins_when_it_may(capfd: pytest.CaptureFixture[str]) -> None:
    program, spec = driver.resolve(["echo", "{address}"]), cluster()
    own = assignment(spec)
    child = driver.stand_by(program, own, spec)
    assert child.pid == 0
    assert driver.start(child, program, own, spec) is child
    assert not until_gone([child], 30.0)
    assert capfd.readouterr().out == f"{spec.address}\n"
