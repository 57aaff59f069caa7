"""Allocations that were asked for from the login node: a directory each, with the script and a record in JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.errors import configuration, shortened
from rayhpc.records import run_directory
from rayhpc.records import runs as recorded
from rayhpc.records.runs import Run
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import JobState, State, job_of, short

_FOLDER = "allocations"
_RECORD = "allocation.json"
_OUTPUT = "job.out"
_SCHEDULER_OUTPUT = "scheduler.out"
# Clocks of login nodes and compute nodes differ; a run of an allocation is not older than this before it.
_CLOCK_SECONDS = 3600.0
# A scheduler may add its own words to the end of the output.
_LAST_WORDS = 30


@dataclass(frozen=True)
class Allocation:
    """What was submitted, and how it ended once that is known. directory, script and run_dir are absolute paths.

    submit: the command that submitted it, run in submitted_from; submitted_at: Unix seconds; earlier: ids of the job's
    earlier attempts, where a scheduler runs a job again under another id; ended: its last state; tasks: those of an
    array that were seen to have ended, which a scheduler forgets before the others have.
    """

    name: str
    directory: str
    scheduler: str
    job_id: str
    command: tuple[str, ...]
    submit: tuple[str, ...]
    submitted_from: str
    submitted_at: float
    script: str
    run_dir: str
    earlier: tuple[str, ...] = ()
    ended: JobState | None = None
    tasks: tuple[tuple[str, JobState], ...] = ()

    @property
    def output(self) -> Path:
        """What the job writes."""
        return output(Path(self.directory))

    @property
    def scheduler_output(self) -> Path:
        """What the scheduler keeps of the job until its end, where it does not write `output` itself."""
        return scheduler_output(Path(self.directory))


def output(directory: Path) -> Path:
    """The job's output file in an allocation's directory."""
    return directory / _OUTPUT


def scheduler_output(directory: Path) -> Path:
    """The file for a scheduler that delivers the job's output at its end only."""
    return directory / _SCHEDULER_OUTPUT


def folder(run_dir: str) -> Path:
    """Where the allocations of a run directory are."""
    return Path(run_dir).expanduser().absolute() / _FOLDER


def create(run_dir: str, name: str) -> Path:
    """Make the directory of a new allocation; raises RayhpcError where it cannot be made or cannot hold data."""
    return run_directory.create(str(folder(run_dir)), name)


def write(allocation: Allocation) -> None:
    """Write the record, whole or not at all."""
    run_directory.write_json(Path(allocation.directory) / _RECORD, allocation)


def ended(allocation: Allocation, state: JobState) -> Allocation:
    """The allocation with its end, which is written down so that the scheduler is not asked for it again."""
    known = replace(allocation, ended=state)
    write(known)
    return known


def remembered(allocation: Allocation, tasks: Iterable[tuple[str, JobState]]) -> Allocation:
    """The allocation with the tasks of its array that have ended, which are written down."""
    known = replace(allocation, tasks=tuple(entry for entry in tasks if entry[1].ended))
    if known != allocation:
        write(known)
    return known


def next_life(allocation: Allocation) -> Allocation | None:
    """The allocation with the job that its own job has submitted to be run again, which is written down; else None.

    The jobscripts for PBS and Cobalt say so at the end of the output.
    """
    for line in reversed(run_directory.last_lines(allocation.output, _LAST_WORDS)):
        match = re.search(r"the next attempt of job (\S+) is job (\S+)$", line.rstrip())
        if match and short(match[1]) == short(allocation.job_id):
            alive = replace(allocation, job_id=match[2], earlier=(*allocation.earlier, allocation.job_id))
            write(alive)
            return alive
    return None


def every(run_dir: str) -> list[Allocation]:
    """All allocations, the oldest first; a directory without a readable record is left out."""
    try:
        directories = [path for path in folder(run_dir).iterdir() if path.name != paths.LATEST]
    except OSError:
        return []
    found = [allocation for directory in directories if (allocation := _read(directory)) is not None]
    return sorted(found, key=lambda allocation: (allocation.submitted_at, allocation.name))


def _read(directory: Path) -> Allocation | None:
    """The record of a directory, which may have been moved since; None if there is none that we understand."""
    try:
        content: dict[str, Any] = json.loads((directory / _RECORD).read_text())
        wanted = {field.name: content[field.name] for field in fields(Allocation) if field.name != "tasks"}
        wanted["ended"] = _state(wanted["ended"]) if wanted["ended"] else None
        wanted["tasks"] = _tasks(content.get("tasks", ()))  # earlier versions knew none
        wanted.update({name: tuple(wanted[name]) for name in ("command", "submit", "earlier")})
        return Allocation(**{**wanted, "directory": str(directory)}) if wanted["scheduler"] in SYSTEMS else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(content: dict[str, Any]) -> JobState:
    return JobState(**{**content, "state": State[content["state"]], "tasks": _tasks(content.get("tasks", ()))})


def _tasks(content: Iterable[Any]) -> tuple[tuple[str, JobState], ...]:
    return tuple((str(task), _state(state)) for task, state in content)


def find(run_dir: str, words: Iterable[str]) -> list[Allocation]:
    """The allocations that are meant by job ids or names, of none the newest; raises RayhpcError for what there is not.

    The first part of an id will do, as 123 for 123.server; of equal ones the newest is meant.
    """
    known = every(run_dir)
    if not known:
        raise configuration(
            f"there is no allocation in {folder(run_dir)}",
            next_step="rayhpc alloc submit makes one; another place is named by --run-dir",
        )
    return [_selected(known, word) for word in words] or known[-1:]


def _selected(known: list[Allocation], word: str) -> Allocation:
    for allocation in reversed(known):
        ids = (allocation.job_id, *allocation.earlier)
        if word in (*ids, *map(short, ids), allocation.name):
            return allocation
    newest = [allocation.job_id for allocation in reversed(known)]
    raise configuration(f"there is no allocation {word}", f"known: {shortened(newest)}", next_step="rayhpc alloc list")


def runs(allocation: Allocation) -> list[Run]:
    """The runs of the bootstrap in this allocation, the oldest first: more than one where the job was requeued."""
    first = time.strftime("%Y%m%d-%H%M%S", time.localtime(allocation.submitted_at - _CLOCK_SECONDS))
    ids = set(map(short, (allocation.job_id, *allocation.earlier)))
    return [run for run in recorded.every(allocation.run_dir, first) if job_of(run.batch_job_id) in ids]
