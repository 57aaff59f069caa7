"""outcome.json, the last word on a run. Until then a file beside it holds its room, and shows that the run lives.

A file system that becomes full while the run goes on still has the room. Whoever writes the outcome, rank 0 or, where
that was killed, the keeper of the head, writes into the room and renames it: the second one finds none any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.model import Outcome
from rayhpc.records import run_directory
from rayhpc.user_input.secret_names import shown_words

ROOM_BYTES = 16 * 1024
_BEAT_SECONDS = 10.0
# NFS may show a sign a minute late.
FRESH_SECONDS = 90.0


def record(
    outcome: Outcome, command: Sequence[str], release_seconds: float | None = None, problems: Sequence[str] = ()
) -> dict[str, Any]:
    """What outcome.json says; release_seconds is None until everything has been given back."""
    return {
        "code": outcome.code,
        "cause": outcome.cause,
        "fault": outcome.fault,
        "command": list(shown_words(command, os.environ)),
        "release_seconds": release_seconds,
        "problems": list(problems),
    }


def text(content: Mapping[str, Any]) -> str:
    """The record as it is written; without the command where it would not fit into its room."""
    whole = run_directory.report(content)
    return (whole if len(whole) <= ROOM_BYTES else run_directory.report({**content, "command": []})).decode()


def write(directory: Path, content: Mapping[str, Any]) -> None:
    """Write the outcome, whole or not at all; raises OSError, without the room also where the file system is full."""
    file, room = directory / paths.OUTCOME, directory / paths.ROOM
    try:
        descriptor = os.open(room, os.O_WRONLY)
    except FileNotFoundError:
        run_directory.write_report(file, content)
        return
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text(content).encode())
        stream.truncate()
        stream.flush()
        os.fsync(descriptor)
    room.replace(file)


def silence(directory: Path) -> float | None:
    """Seconds since a run without an outcome said that it goes on, as far as clocks agree; None if it never did."""
    try:
        with (directory / paths.ROOM).open("rb") as room:  # NFS looks for news of a file when it is opened
            return max(0.0, time.time() - os.fstat(room.fileno()).st_mtime)
    except OSError:
        return None


class Pulse:
    """The sign that a run goes on, given by a thread of its own: a file system that hangs keeps nobody waiting."""

    def __init__(self, directory: Path) -> None:
        """Take the room for the outcome, which no file system can compress; raises OSError."""
        self._room = directory / paths.ROOM
        with os.fdopen(os.open(self._room, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(os.urandom(ROOM_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def close(self) -> None:
        """Give no further sign."""
        self._closed.set()

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file server that is away for a while, or the outcome is written
                os.utime(self._room)
