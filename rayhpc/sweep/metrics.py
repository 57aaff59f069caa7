"""What a trial reports, read as it comes: JSON lines, a CSV file, or TensorBoard's event files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rayhpc.sweep.plan import Reader
from rayhpc.sweep.trials import METRICS

Report = dict[str, float]
_SHOWN = 80
_STEP = "step"


class Source(Protocol):
    """Where reports come from."""

    problems: list[str]

    def new(self) -> list[Report]:
        """The reports since the last look; what is none is noted in problems, once a kind."""


def source(reader: Reader, place: Path) -> Source:
    """The reader of a trial; place: the trial's directory, which its program may write to."""
    if reader.kind == "tensorboard":
        return TensorBoard(place / reader.path)
    if reader.kind == "csv":
        return Lines(place / (reader.path or "metrics.csv"), parse=Csv())
    return Lines(place / (reader.path or METRICS), parse=parse_json)


class Parse(Protocol):
    """What makes a report of a line; None for a line that holds none, such as a CSV file's first."""

    def __call__(self, line: str) -> Report | None:
        """The report; raises ValueError."""


class Lines:
    """A file that grows by lines. It may not be there yet; a line without its end is left for the next look."""

    def __init__(self, file: Path, parse: Parse) -> None:
        self.problems: list[str] = []
        self._file, self._parse = file, parse
        self._read = 0

    def new(self) -> list[Report]:
        """The reports since the last look."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                whole, _, _ = stream.read().rpartition(b"\n")
        except OSError:
            return []
        if not whole:
            return []
        self._read += len(whole) + 1
        found = (self._report(line) for line in whole.decode(errors="replace").splitlines() if line.strip())
        return [report for report in found if report]

    def _report(self, line: str) -> Report | None:
        try:
            return self._parse(line)
        except ValueError as error:
            if not self.problems:
                self.problems.append(f"{self._file.name}: {error}: {line[:_SHOWN]!r}")
            return None


def parse_json(line: str) -> Report:
    """A report from JSON; raises ValueError for anything but an object of numbers."""
    content = json.loads(line)
    if not isinstance(content, Mapping):
        raise ValueError("a report is a JSON object")
    return numbers(content)


def numbers(content: Mapping[str, object]) -> Report:
    """The numbers of a report; raises ValueError where there is none."""
    found = {str(name): float(value) for name, value in content.items() if isinstance(value, int | float)}
    finite = {name: value for name, value in found.items() if math.isfinite(value)}
    if not finite:
        raise ValueError("a report has at least one finite number")
    return finite


class Csv:
    """CSV: the first line has the names."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def __call__(self, line: str) -> Report | None:
        """The report of a line; None for the first; raises ValueError."""
        cells = next(csv.reader([line]))
        if not self._names:
            self._names = cells
            return None
        return numbers({name: _number(cell) for name, cell in zip(self._names, cells, strict=False)})


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


class TensorBoard:
    """Event files below a directory, by TensorBoard's own reader: what is new of every scalar, by its step."""

    def __init__(self, directory: Path) -> None:
        self.problems: list[str] = []
        self._directory = directory
        self._last: dict[str, int] = {}

    def new(self) -> list[Report]:
        """The reports since the last look, one for each step."""
        try:
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        except ImportError:
            self.problems = ["TensorBoard files need its package on the nodes: pip install tensorboard"]
            return []
        steps: dict[int, Report] = {}
        for folder in {file.parent for file in self._directory.rglob("events.out.tfevents.*")}:
            events = EventAccumulator(str(folder)).Reload()
            for tag in events.Tags()["scalars"]:
                for event in events.Scalars(tag):
                    if event.step > self._last.get(tag, -1):
                        steps.setdefault(event.step, {_STEP: event.step})[tag] = event.value
                        self._last[tag] = event.step
        return [steps[step] for step in sorted(steps)]
