"""One contender, launched once: the seconds until its first task, of the whole job, and until its hosts are free."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders, processes
from benchmarks.contenders import Contender
from benchmarks.places import Place

_START_SECONDS = 180.0
_GONE_SECONDS = 120.0
_LOOK = 0.02
_LOOK_AT_PROCESSES = 0.1


class MeasurementError(Exception):
    """A contender did not do what is measured; says what it printed."""


@dataclass(frozen=True)
class Sample:
    """What one launch took, in seconds; None where it was not measured, or did not end within two minutes.

    parts: what the serial floor is made of. left: processes that were still there after two minutes.
    """

    place: str
    nodes: int
    contender: str
    turn: int
    first_task: float
    release: float | None = None
    job: float | None = None
    left: int = 0
    parts: dict[str, float] | None = None

    def record(self) -> dict[str, Any]:
        """As it is kept in runs.jsonl."""
        return asdict(self)


def measure(place: Place, contender: Contender, directory: Path, turn: int) -> Sample:
    """Launch it, wait for its first task and for its end, and leave the place clear; raises MeasurementError."""
    place.clear()
    directory.mkdir(parents=True)
    try:
        place.start(contender.argv(place, directory, contenders.driver(place, directory)), directory)
        if contender is contenders.FLOOR:
            return _floor(place, directory, turn)
        launched, first, end = (stamp(place, directory, name) for name in ("launched", "first_task", "driver_end"))
        gone = _gone(place)
        release, job = (None, None) if gone is None else (gone - end, gone - launched)
        left = len(place.living())
        return Sample(place.name, place.nodes, contender.name, turn, first - launched, release, job, left)
    finally:
        place.clear()


def _floor(place: Place, directory: Path, turn: int) -> Sample:
    _appears(place, directory, "floor.json")
    parts = json.loads((directory / "floor.json").read_text())
    _gone(place)
    # With one host there is no worker to join.
    return Sample(place.name, place.nodes, contenders.FLOOR.name, turn, sum(parts.values()), parts=parts)


def stamp(place: Place, directory: Path, name: str, seconds: float = _START_SECONDS) -> float:
    """The time in a file of the driver's or the launch's; raises MeasurementError where it does not appear."""
    _appears(place, directory, name, seconds)
    return float((directory / name).read_text())


def _appears(place: Place, directory: Path, name: str, seconds: float = _START_SECONDS) -> None:
    """Wait for a file; raises MeasurementError when the contender ends without it, or the time is over."""
    end = time.monotonic() + seconds
    look_at_processes = time.monotonic() + 1.0
    while not (directory / name).exists():
        now = time.monotonic()
        over = False
        if now > look_at_processes:
            look_at_processes = now + 1.0
            over = (directory / "launched").exists() and not place.living()
        if now > end or (over and not (directory / name).exists()):
            raise MeasurementError(f"no {name} in {directory}:\n{_tail(directory)}")
        time.sleep(_LOOK)


def _tail(directory: Path) -> str:
    output = directory / "output"
    return output.read_text(errors="replace")[-3000:] if output.exists() else "no output"


def _gone(place: Place) -> float | None:
    """When the last process had ended; None if that takes longer than two minutes."""
    return when(lambda: not place.living(), _GONE_SECONDS)


def when(what: Callable[[], bool], seconds: float) -> float | None:
    """Unix seconds at which something has become true; None if it has not within so many seconds."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return None
        time.sleep(_LOOK_AT_PROCESSES)
    return time.time()


@dataclass(frozen=True)
class Idle:
    """Our own processes while a driver sleeps: per node, CPU seconds a minute and bytes; and the bring-up's CPU.

    bring_up: CPU seconds of all processes until the first task, ended children included, by kind of process.
    """

    place: str
    nodes: int
    seconds: float
    processes: int
    cpu_per_minute: float
    rss: float
    pss: float
    largest_rss: int
    bring_up: dict[str, float]
    events: str

    def record(self) -> dict[str, Any]:
        """As it is kept in idle.jsonl."""
        return asdict(self)


def idle(place: Place, directory: Path, seconds: float = 20.0) -> Idle:
    """Run rayhpc with a driver that sleeps, and look at our own processes early and late in that time."""
    place.clear()
    directory.mkdir(parents=True)
    try:
        command = contenders.driver(place, directory, seconds)
        place.start(contenders.RAYHPC.argv(place, directory, command), directory)
        first = stamp(place, directory, "first_task")
        bring_up = processes.cpu_by_kind(place.living())
        own = [(proc, pid) for proc, pid in place.living() if processes.ours(proc, [pid])]
        when(lambda: time.time() > first + 2.0, 10.0)
        before, began = _cpu(own), time.time()
        when(lambda: time.time() > first + seconds - 2.0, seconds)
        after, ended = _cpu(own), time.time()
        used = [processes.usage(proc, [pid]) for proc, pid in own]
        stamp(place, directory, "driver_end")
        _gone(place)
        (events,) = directory.glob("runs/2*/events.jsonl")
        return Idle(
            place.name, place.nodes, ended - began, len(own),
            cpu_per_minute=60 * (after - before) / (ended - began) / place.nodes,
            rss=sum(use.rss for use in used) / place.nodes, pss=sum(use.pss for use in used) / place.nodes,
            largest_rss=max(use.rss for use in used), bring_up=bring_up, events=str(events),
        )  # fmt: skip
    finally:
        place.clear()


def _cpu(own: list[tuple[Path, int]]) -> float:
    return sum(processes.cpu(proc, [pid]) for proc, pid in own)
