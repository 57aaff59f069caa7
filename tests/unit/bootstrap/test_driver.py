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


@pytest.mark.parametrize("module", ["package.module", "json.tool", "zipapp"])
def test_a_module_is_run_by_this_interpreter(here: Path, module: str) -> None:
    (here / "package").mkdir()
    (here / "package" / "__init__.py").write_text("raise AssertionError('imported')")
    command = driver.resolve(["-m", module, "-x"])
    assert (command[0], command[-3:]) == (sys.executable, ["-m", module, "-x"])


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


def test_what_cannot_be_reached_is_126(here: Path) -> None:
    (here / "round.py").symlink_to("round.py")
    for name, reason in (("round.py", "symbolic links"), ("x" * 300 + ".py", "too long"), ("x" * 300, "too long")):
        fault = refused(name)
        assert (fault.code, reason in fault.what) == (ExitCode.NOT_EXECUTABLE, True), fault
        assert len(fault.what) < 300


@pytest.mark.parametrize("command", [["train.py"], ["/bin/true"], ["-m", "json.tool"]])
def test_a_working_directory_that_is_gone_is_78(here: Path, command: list[str]) -> None:
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    (here / "gone").rmdir()
    fault = refused(*command)
    assert (fault.code, fault.what.partition(":")[0]) == (78, "the working directory cannot be found")


def test_what_the_kernel_refuses_is_126_with_its_reason() -> None:
    fault = driver.refusal(["./solve"], (8, "Exec format error"))
    assert fault.code == ExitCode.NOT_EXECUTABLE
    assert "./solve cannot be executed: Exec format error" in fault.what


def test_arguments_that_are_too_long_are_126_with_the_limits() -> None:
    fault = driver.refusal(["./solve"], (7, "Argument list too long"))
    assert (fault.code, fault.what) == (126, "the driver ./solve cannot be executed: Argument list too long")
    assert "128 KiB" in fault.next_step


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import ray\nray.init(num_cpus=4)\n", "ray.init(num_cpus=...) in line 2"),
        ("import ray\nray.init(\n    object_store_memory=1)\n", "ray.init(object_store_memory=...) in line 2"),
        ("import ray\nray.init()\nray.remote(num_cpus=4)\n", ""),
        ("not python at all (", ""),
    ],
)
def test_a_hint_for_arguments_that_ray_refuses(here: Path, source: str, named: str) -> None:
    """On a cluster that is there its size is no business of ray.init()."""
    (here / "train.py").write_text(source)
    expected = (
        f"if Ray refused {named}: leave that out of the driver; rayhpc's options size the cluster" if named else ""
    )
    assert driver.hint([sys.executable, "-u", "train.py", "--x"]) == expected
    assert driver.hint([sys.executable, "-c", source]) == expected


def test_no_hint_where_the_source_is_not_known(here: Path) -> None:
    assert driver.hint(["/bin/true"]) == driver.hint([sys.executable, "-u", "-m", "json.tool"]) == ""
    assert driver.hint([sys.executable, "-u", "gone.py"]) == ""


def test_a_path_that_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8, or UTF-8 where Python reads ASCII."""
    here = Path(os.fsdecode(bytes(tmp_path) + b"/j\xf6b"))
    here.mkdir()
    monkeypatch.chdir(here)
    Path("train.py").touch()
    with pytest.raises(RayhpcError, match=r"/j\\xf6b/train.py is no text in this locale") as caught:
        driver.resolve(["train.py"])
    assert caught.value.fault.code == ExitCode.CONFIGURATION
