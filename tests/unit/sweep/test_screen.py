"""What a sweep shows: lines everywhere, and on a terminal a table of the trials that run."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import sys
import time

import pytest

from rayhpc.sweep.plan import Sweep
from rayhpc.sweep.screen import Row, Screen, given

SWEEP = Sweep("s", ".", command=("x",), metric="mean_return")
VALUES = {"training.lr": 0.00044123, "training.num_epochs": 4, "model": "[64,64]" * 9}


def everything(ours: int) -> str:
    """All that was written to a terminal whose other side is closed."""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        pieces = []
        with contextlib.suppress(OSError):  # EIO, Linux's end of a terminal
            while piece := terminal.read(1 << 16):
                pieces.append(piece)
        return b"".join(pieces).decode()


def test_a_table_of_a_hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Screen(SWEEP) as screen:
            screen.running([Row("0007-1", given(VALUES), {"step": 3, "mean_return": 21.5}, time.time() - 30)])
            screen.line("1/4  trial 0006 done")
    shown = everything(ours)
    (row,) = {line.strip() for line in shown.split("\r\n") if line.startswith("0007-1")}
    assert row.split()[:6] == ["0007-1", "30", "3", "21.5", "training.lr=0.0004412", "training.num_epochs=4"]
    assert len(row) <= 100 and row.endswith("…")
    assert "1/4  trial 0006 done" in shown


def test_lines_alone_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Screen(SWEEP) as screen:
        screen.running([Row("0007-1", "", {}, time.time())])
        screen.line("1/4  trial 0006 done")
    assert stream.getvalue() == "[   0.0 s] 1/4  trial 0006 done\n"
