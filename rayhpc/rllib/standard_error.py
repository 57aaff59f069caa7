"""Keep a known false alarm off the terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LAST_LINES_S = 2.0


@contextmanager
def without_lines(text: str) -> Iterator[None]:
    """Leave lines with this text out of standard error for the block.

    The filter is a process, so that the last words of one that aborts in the block arrive all the same; it has a
    session of its own, so that Ctrl-C does not end it.
    """
    command = ["grep", "--fixed-strings", "--invert-match", "--line-buffered", text]
    terminal = os.dup(2)
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal, start_new_session=True)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        reader.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            reader.wait(_LAST_LINES_S)
