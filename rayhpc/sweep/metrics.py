"""What a trial reports, read as it comes: JSON lines, a CSV file, or TensorBoard's event files."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rayhpc.sweep.plan import Reader
from rayhpc.sweep.trials import METRICS

Report = dict[str, float]
_SHOWN = 80
_STEP = "step"
_HEADER, _CHECKSUM = 12, 4


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
    """Event files below a directory: what is new of every scalar, by its step.

    A file is a sequence of records: length (8 bytes), its checksum (4), a protocol buffer, its checksum (4), as
    TensorFlow's TFRecord has them.
    """

    def __init__(self, directory: Path) -> None:
        self.problems: list[str] = []
        self._directory = directory
        self._read: dict[Path, int] = {}

    def new(self) -> list[Report]:
        """The reports since the last look, one for each step."""
        steps: dict[int, Report] = {}
        for file in sorted(self._directory.rglob("events.out.tfevents.*")):
            for event in self._events(file):
                for scalar in event.summary.value:
                    if scalar.HasField("simple_value"):
                        steps.setdefault(event.step, {_STEP: event.step})[scalar.tag] = scalar.simple_value
        return [steps[step] for step in sorted(steps)]

    def _events(self, file: Path) -> Iterator[Any]:
        """The events that have been written in whole since the last look."""
        from tensorboardX.proto.event_pb2 import Event

        content = file.read_bytes()
        place = self._read.get(file, 0)
        while place + _HEADER <= len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            end = place + _HEADER + length
            if end + _CHECKSUM > len(content):
                break
            yield Event.FromString(content[place + _HEADER : end])
            place = end + _CHECKSUM
        self._read[file] = place
