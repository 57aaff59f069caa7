"""What a driver may ask about its run, as `rayhpc.time_left()`: the variables of its environment, as functions.

Each works without Ray, and outside of a run as well, so that a driver also runs by itself. They are the driver's: a
task on another host does not have its variables.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path


def time_left() -> float:
    """Seconds until the end of the job, infinite where none is known; raises as deadline() does."""
    return deadline() - time.time()


def deadline() -> float:
    """The end of the job in Unix seconds, infinite where none is known; raises ValueError for what is no number.

    It is read again at each call, since a scheduler may move the end of a job that runs.
    """
    file = os.environ.get("RAYHPC_DEADLINE_FILE", "")
    with contextlib.suppress(OSError):  # there is no file where the end was not known; the variable is what is left
        if file:
            return _number(Path(file).read_text().strip(), file)
    return _number(os.environ.get("RAYHPC_DEADLINE", "") or "inf", "RAYHPC_DEADLINE")


def _number(text: str, source: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{source}: {text!r} is no time in Unix seconds")
    return number


def restarts() -> int:
    """How often the jobscript has run this job again, 0 the first time; raises ValueError for what is no number."""
    return int(os.environ.get("RAYHPC_RESTARTS", "") or 0)


def nodes() -> int:
    """How many Ray nodes were alive when the driver started; 1 outside of a run; raises ValueError as restarts() does.

    `ray.nodes()` knows how many there are now.
    """
    return int(os.environ.get("RAYHPC_ALIVE_NODES", "") or 1)


def address() -> str:
    """HOST:PORT of the cluster, to which a plain ray.init() attaches; empty where it starts a Ray of its own."""
    return os.environ.get("RAY_ADDRESS", "")


def run_dir() -> Path | None:
    """The directory of the run's record; None outside of a run, where RAYHPC_RUN_DIR is an option of the user's."""
    found = os.environ.get("RAYHPC_RUN_DIR", "") if "RAYHPC_RUN_ID" in os.environ else ""
    return Path(found) if found else None
