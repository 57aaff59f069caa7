"""Two runs never write into one output directory."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock

from rayhpc.records import lock
from rayhpc.rllib.errors import UsageError

LOCK = ".lock"


def locked(output: Path, flag: str = "--output") -> BaseFileLock:
    """Hold the directory until the lock is released or the process has ended; UsageError names who holds it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        return lock.take(output / LOCK)
    except lock.BusyError as busy:
        raise UsageError(f"{flag} {output} is in use by {busy}: wait for its end, or give another") from None
    except OSError as problem:
        raise UsageError(f"{flag} {output}: {problem}") from problem
