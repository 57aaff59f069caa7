"""One known line is left out of standard error; all else arrives, also what an aborting process says last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rayhpc.rllib.standard_error import without_lines


def test_only_lines_with_the_text_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with without_lines("false alarm"):
        os.write(2, b"before\na false alarm of Ray's\nafter\n")
    os.write(2, b"behind\n")
    assert capfd.readouterr().err == "before\nafter\nbehind\n"


def test_an_error_leaves_standard_error_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError), without_lines("false alarm"):
        raise FileNotFoundError
    os.write(2, b"a false alarm\n")
    assert capfd.readouterr().err == "a false alarm\n"


def test_the_last_words_of_an_abort_arrive() -> None:
    script = """
import os
from rayhpc.rllib.standard_error import without_lines
with without_lines("false alarm"):
    os.write(2, b"false alarm\\nlast words\\n")
    os.abort()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (-signal.SIGABRT, "last words\n")
