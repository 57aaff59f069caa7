"""The end of the job: known at the start, asked for again while the job runs, since sites extend and shorten jobs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rayhpc import schedulers
from rayhpc.options import Options
from rayhpc.records import run_directory
from rayhpc.schedulers import commands

THREAD = "end of job"
Ask = Callable[[], float | None]

# How often a scheduler of many jobs may be asked by each of them.
_EVERY_SECONDS = 300.0
# What is about to be done at an end is done by an answer that is younger than this, and asked for so long before.
_FRESH_SECONDS = 15.0
_AHEAD_SECONDS = 10.0
# LSF tells whole minutes: two of its answers for one end differ by less.
_LEAST_MOVE = 60.0


class EndOfJob:
    """The end of the job in Unix seconds, infinite where there is none; drivers read it in a file of the run.

    ask: the scheduler's answer, which may take seconds, None where it does not say; None where the end is fixed.
    """

    def __init__(self, end: float, ask: Ask | None, file: Path) -> None:
        self.at = end or math.inf
        self._ask = ask
        self._file = file
        self._asked_at = time.time()  # the planner has
        self._question: threading.Thread | None = None
        self._answer: float | None = None

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.at - time.time()

    @property
    def certain(self) -> bool:
        """True where the end is fixed, or the scheduler has just been asked."""
        return self._ask is None or (self._question is None and self._age < _FRESH_SECONDS)

    @property
    def _age(self) -> float:
        return time.time() - self._asked_at

    def refresh(self, mark: float) -> float:
        """Ask the scheduler where it is time to; the seconds by which the end has moved, 0 if it has not.

        mark: seconds before the end at which something will be done. Returns at once: the answer comes later.
        """
        if self._question is None:
            due = self._age >= (_FRESH_SECONDS if self.left <= mark + _AHEAD_SECONDS else _EVERY_SECONDS)
            if self._ask is not None and due:
                self._question = threading.Thread(target=self._put, args=(self._ask,), name=THREAD, daemon=True)
                self._question.start()
            return 0.0
        return 0.0 if self._question.is_alive() else self._take()

    def _put(self, ask: Ask) -> None:
        self._answer = ask()

    def _take(self) -> float:
        """The answer of a question that has ended."""
        self._question, self._asked_at = None, time.time()
        answer, self._answer = self._answer, None
        if answer is None or answer == self.at or abs(answer - self.at) < _LEAST_MOVE:
            return 0.0
        moved, self.at = answer - self.at, answer
        return moved

    def write(self) -> None:
        """Tell drivers the end, `inf` where there is none any more; raises OSError."""
        run_directory.write_whole(self._file, f"{self.at:.0f}\n".encode())


def question(options: Options, environ: Mapping[str, str]) -> Ask | None:
    """How to ask for the end of the job; None where the user has fixed it, or no scheduler can be asked."""
    scheduler = schedulers.detect(environ)
    if options.walltime or options.deadline or scheduler is None or not scheduler.deadline_query:
        return None
    known = scheduler, dict(environ)
    return lambda: commands.deadline_now(*known, time.time())
