"""A cell of the matrix: what was done to a run, what came of it, how long it took and how long it may take."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

# Where make test-faults gathers the cells of a run, a JSON line each, for tests/faults/report.py.
RECORD = "RAYHPC_FAULTS_RECORD"

FAULTS = "Faults"
STRANGERS = "Strangers"
INPUT = "Bad input"
WORLDS = "Bad worlds"
PARTS = (FAULTS, STRANGERS, INPUT, WORLDS)


@dataclass(frozen=True)
class Cell:
    """One cell. what: done to whom, where; outcome: the exit code and what the user reads.

    seconds: from the fault to the end of the job (of a bad input: from the start); bound: what it must stay below, 0
    where time is not the point.
    """

    part: str
    what: str
    outcome: str
    seconds: float = 0.0
    bound: float = 0.0


def met(cell: Cell) -> None:
    """Fail if the cell took longer than its bound; else record it."""
    assert cell.part in PARTS
    assert not cell.bound or cell.seconds <= cell.bound, f"{cell.what}: {cell.seconds:.1f} s, bound {cell.bound:g} s"
    if RECORD in os.environ:
        with Path(os.environ[RECORD]).open("a") as file:
            file.write(json.dumps(asdict(cell)) + "\n")
