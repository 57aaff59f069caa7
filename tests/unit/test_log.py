"""What the user sees."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from rayhpc.log import Console


def test_a_line_has_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    Console(time.time() - 12.3).line("head up")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\[  1[23]\.\d s\] head up\n", err)


def test_a_plain_line_is_as_it_is(capsys: pytest.CaptureFixture[str], hostile: str) -> None:
    Console(0.0).plain(hostile)
    assert capsys.readouterr().err == hostile + "\n"


def test_a_quiet_console_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(0.0, quiet=True)
    console.line("x")
    console.plain("y")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    with Console(0.0, quiet).bar("nodes", 4) as bar:
        bar.show(2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Console(0.0).bar("nodes", 4) as bar:
        bar.show(4)
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["café", "日本", "\udcff", "…"])
def test_no_locale_makes_a_line_fail(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LANG=C on a compute node: the standard error of Python replaces what it cannot say."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace"))
    Console(0.0).plain(text)
    assert raw.getvalue().endswith(b"\n")


# The ssh connection has dropped, or the reader of `2>&1 | head` has ended.
@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_terminal_that_is_gone_ends_no_run(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stderr", Gone())
    Console(0.0).line("nobody reads this")
