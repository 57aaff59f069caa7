"""Signals to this process, noted and never acted on where they arrive."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType

from rayhpc.messages import ENDING

NOTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SAME_SECONDS = 1.0


def unwind_on_signals() -> None:
    """Until Signals() takes over: INT, TERM and HUP end this process by way of its `finally`, with 128 + n."""
    for signum in ENDING:
        signal.signal(signum, _unwind)


def _unwind(signum: int, _: FrameType | None) -> None:
    raise SystemExit(128 + signum)


class Signals:
    """From its making on, the signals in NOTED are counted; fileno() is readable when one has come."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._last: dict[int, float] = {}
        self._news: list[tuple[int, int]] = []
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for signum in NOTED:
            signal.signal(signum, self._note)

    def fileno(self) -> int:
        """For a selector."""
        return self._reading

    def _note(self, signum: int, _: FrameType | None) -> None:
        # A launcher and a scheduler may both pass the same signal on: within a second they count as one.
        now = time.monotonic()
        if now - self._last.get(signum, -_SAME_SECONDS) < _SAME_SECONDS:
            return
        self._last[signum] = now
        self._counts[signum] = self._counts.get(signum, 0) + 1
        self._news.append((signum, self._counts[signum]))

    def take(self) -> list[tuple[int, int]]:
        """(signal, how many times it has come by now) of each that came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reading, 4096)
        news, self._news = self._news, []
        return news
