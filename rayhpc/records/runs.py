"""The runs that a run directory records, as they stand: read by the login side, while they go on and afterwards."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayhpc import paths, units
from rayhpc.errors import configuration, shortened
from rayhpc.records import outcome_file
from rayhpc.records.outcome_file import FRESH_SECONDS


@dataclass(frozen=True)
class Run:
    """A run of the bootstrap; code is None while it goes on, or where it was lost with its host.

    nodes, hosts: how many it has; batch_job_id: the scheduler's, empty without one; command: the driver's, empty for a
    cluster that is held, None where it is not known; silence: of a run without an
    outcome, the seconds since it was heard of, None where that is not known.
    """

    directory: str
    batch_job_id: str
    nodes: int
    hosts: int
    code: int | None
    cause: str
    command: tuple[str, ...] | None = None
    silence: float | None = None

    @property
    def id(self) -> str:
        """Its name, which sorts by time."""
        return Path(self.directory).name

    @property
    def words(self) -> str:
        """How it ended, or whether it goes on."""
        if self.cause or self.silence is None:
            return self.cause or "no outcome"
        goes_on = self.silence <= FRESH_SECONDS
        return "running" if goes_on else f"not heard of for {units.age(self.silence)}: lost, or suspended"


def every(run_dir: str, first: str = "") -> list[Run]:
    """All runs whose ids are not below `first`, the oldest first; a directory that records none is left out."""
    try:
        directories = sorted(Path(run_dir).expanduser().absolute().iterdir())
    except OSError:
        return []
    named = (path for path in directories if path.name >= first and path.name[:1].isdigit())
    return [read(path) for path in named if (path / paths.SPEC).exists()]


def read(directory: Path) -> Run:
    """The run recorded in a directory, as far as it can be read."""
    spec, outcome = _object(directory / paths.SPEC), _object(directory / paths.OUTCOME)
    code = outcome.get("code")
    command = outcome.get("command") or _first_event(directory).get("command")
    return Run(
        directory=str(directory),
        batch_job_id=str(spec.get("batch_job_id", "")),
        nodes=len(spec.get("nodes", ())),
        hosts=int(spec.get("hosts", 0)),
        code=code if isinstance(code, int) else None,
        cause=str(outcome.get("cause", "")),
        command=None if command is None else tuple(map(str, command)),
        silence=None if outcome else outcome_file.silence(directory),
    )


def details(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """What cluster.json and outcome.json say, as far as they can be read."""
    return _object(Path(run.directory, paths.SPEC)), _object(Path(run.directory, paths.OUTCOME))


def _first_event(directory: Path) -> dict[str, Any]:
    """The first line of events.jsonl, which has the driver's command; empty if it cannot be read."""
    try:
        with (directory / paths.EVENTS).open(errors="replace") as file:
            return _parsed(file.readline())
    except OSError:
        return {}


def find(run_dir: str, word: str) -> Run:
    """The run that a directory or an id names, the newest without a word; raises RayhpcError where there is none."""
    for directory in (Path(word).expanduser(), Path(run_dir).expanduser() / word) if word else ():
        if (directory / paths.EVENTS).exists():
            return read(directory.resolve())
    known = every(run_dir)
    if word:
        ids = [run.id for run in reversed(known)]
        raise configuration(
            f"there is no run {word}",
            f"in {Path(run_dir).expanduser().absolute()}: {shortened(ids) or 'none'}",
            next_step="rayhpc runs list; another place is named by --run-dir",
        )
    if not known:
        raise configuration(
            f"there is no run in {Path(run_dir).expanduser().absolute()}",
            next_step="name its directory, or the place of all runs with --run-dir",
        )
    return known[-1]


def events(run: Run) -> list[dict[str, Any]]:
    """What happened, in the order in which rank 0 heard of it; raises RayhpcError if there is nothing to read.

    The last line of a run that goes on, or was killed, may be half a line, which is left out.
    """
    file = Path(run.directory, paths.EVENTS)
    try:
        found = [entry for line in file.read_text().splitlines() if (entry := _parsed(line))]
    except OSError as error:
        raise configuration(
            f"{file} cannot be read: {error.strerror}", next_step="rayhpc runs list shows runs that can be plotted"
        ) from error
    if not found:
        raise configuration(f"{file} has no event yet", next_step="wait until the ranks have agreed")
    return found


def span(run: Run) -> tuple[float, float]:
    """Unix seconds of the run's first and last event, of now while it goes on; raises RayhpcError without any."""
    moments = [float(event["at"]) for event in events(run)]
    return min(moments), max(moments) if run.code is not None else time.time()


def _object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it cannot be read."""
    try:
        return _parsed(file.read_text())
    except (OSError, ValueError):
        return {}


def _parsed(text: str) -> dict[str, Any]:
    """The object that a text holds; empty if it holds none."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
