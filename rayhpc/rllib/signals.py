"""SIGUSR1, SIGTERM and SIGINT as one wish to stop."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

WISHES = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
# rayhpc ends a driver with INT, TERM and KILL from 6 s before the end of the job on.
BEFORE_DEADLINE_S = 7.0


class Signals:
    """SIGUSR1, SIGTERM and SIGINT as one wish to stop: KeyboardInterrupt until `defer`, then a note.

    Work in `bounded` ends with KeyboardInterrupt where it would outlast the driver.
    """

    def __init__(self, program: str = "train") -> None:
        self.first: signal.Signals | None = None
        self.limit = ""
        self._program = program
        self._patience: float | None = None
        self._deadline: Callable[[], float] = lambda: math.inf
        self._deferred = False
        self._killed_at: float | None = None
        self._reserve: float | None = None

    def install(self) -> None:
        """Catch the signals from here on; to be called again once somebody else has set handlers."""
        for number in WISHES:
            signal.signal(number, self._receive)
        signal.signal(signal.SIGALRM, self._ring)

    def limit_to(self, patience: float | None, deadline: Callable[[], float]) -> None:
        """Say when the driver is killed.

        patience: seconds from SIGTERM or SIGINT to SIGKILL (rayhpc's --stop-timeout); None where
        nobody kills; deadline: tells the end of the job in Unix seconds, which may move, infinite where there is none.
        """
        self._patience, self._deadline = patience, deadline

    def defer(self) -> None:
        """Let the work at hand be finished from here on."""
        self._deferred = True

    def check(self) -> None:
        """Raise again where the first KeyboardInterrupt was lost, as Python does with those in its own callbacks."""
        if self.first is not None:
            raise KeyboardInterrupt

    @property
    def reason(self) -> str | None:
        """The stop reason that the first signal stands for."""
        if self.first is None:
            return None
        return "interrupt" if self.first == signal.SIGINT else "signal"

    @contextmanager
    def bounded(self, reserve: float) -> Iterator[None]:
        """Interrupt the block by KeyboardInterrupt `reserve` seconds before the driver would be killed."""
        self._reserve = reserve
        self._set_alarm()
        try:
            yield
        finally:
            self._reserve = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def note(self, text: str) -> None:
        """Say it on standard error, from a handler too."""
        with suppress(OSError):
            os.write(2, f"{self._program}: {text}\n".encode())

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._begin_patience(signal.Signals(number))
        if self.first is not None:
            return
        self.first = signal.Signals(number)
        self.note(f"{self.first.name}: stopping")
        if not self._deferred:
            # KeyboardInterrupt is the one exception of a handler that Ray's blocking calls pass on.
            raise KeyboardInterrupt

    def _begin_patience(self, number: signal.Signals) -> None:
        """The first of the ends that this signal announces is the one that counts."""
        ends = {}
        if (deadline := self._deadline()) < math.inf:
            ends["the end of the job"] = time.monotonic() + deadline - time.time() - BEFORE_DEADLINE_S
        if self._patience is not None and number != signal.SIGUSR1:
            ends[f"--stop-timeout {self._patience:g}"] = time.monotonic() + self._patience
        for limit, at in ends.items():
            if self._killed_at is None or at < self._killed_at:
                self._killed_at, self.limit = at, limit
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._reserve is not None and self._killed_at is not None:
            left = self._killed_at - self._reserve - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if self._reserve is not None:
            raise KeyboardInterrupt
