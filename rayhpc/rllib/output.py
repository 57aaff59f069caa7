"""The output directory: which one, what a run goes on from there, and what it builds on."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhpc.rllib.checkpoints import (
    Checkpoint,
    checkpoint_at,
    checkpoints_in,
    delete_checkpoint,
    newest_checkpoint,
)
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.files import PARTIAL, write_whole
from rayhpc.rllib.metrics import CSV_HEADER, Row, csv_lines


@dataclass(frozen=True)
class Place:
    """Where a training writes and what it goes on from.

    resume: a checkpoint, or a directory of them; "": the newest of the output, else zero; None: zero.
    folder: where directories named for the environment are made when there is no output.
    flag: how the user writes an option, for error messages.
    """

    env: str
    output: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    folder: Path = Path("ppo-results")
    flag: Callable[[str], str] = "--{}".format


def place_and_start(place: Place) -> tuple[Path, Checkpoint | None]:
    """The output directory and the checkpoint to go on from, None for zero.

    UsageError: there is no such checkpoint, or two trainings would be mixed in one directory.
    """
    flag = place.flag
    named = Path(place.resume) if place.resume else None
    start = (checkpoint_at(named) or newest_checkpoint(named)) if named else None
    if named and not start:
        raise UsageError(f"{flag('resume')} {named}: there is no complete checkpoint")
    output = place.output or (start.path.parent if start else default_output(place))
    newest = newest_checkpoint(output)
    if place.resume == "":
        start = newest
    if start and start.manifest.env != place.env:
        raise UsageError(f"{start.path} was trained on {flag('env')} {start.manifest.env}, not on {place.env}")
    if start and newest and same(start.path.parent, output):
        _check_goes_on(place, start, newest)
    elif newest and not place.overwrite:
        raise UsageError(
            f"{output} has checkpoints of an earlier run: go on with them ({flag('resume')}), delete them"
            f" ({flag('overwrite')}), or give another {flag('output')}"
        )
    return output, start


def _check_goes_on(place: Place, start: Checkpoint, newest: Checkpoint) -> None:
    """UsageError where going on in the same directory would lose what is there."""
    flag = place.flag
    if place.overwrite:
        raise UsageError(f"{flag('overwrite')} would delete what {flag('resume')} needs: leave one of them out")
    if newest.manifest.iteration > start.manifest.iteration:
        raise UsageError(f"{newest.path} is newer than {start.path}: give another {flag('output')} to branch off")


def default_output(place: Place) -> Path:
    """<folder>/<env>, or <env>-run2 and so on once that has checkpoints; the last one of these to resume."""
    first = place.folder / re.sub(r"[^\w.-]+", "-", place.env)
    runs = (first.with_name(f"{first.name}-run{number}") for number in itertools.count(2))
    taken = list(itertools.takewhile(newest_checkpoint, itertools.chain([first], runs)))
    if place.overwrite or not taken:
        return first
    return taken[-1] if place.resume == "" else first.with_name(f"{first.name}-run{len(taken) + 1}")


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, which need not exist."""
    return one.resolve() == other.resolve()


def make_ready(output: Path, rows: Sequence[Row], *, keep_checkpoints: bool, flag: str = "--output") -> None:
    """Leave in the directory only what this run builds on; raises UsageError if it cannot be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for leftover in output.glob(f"{PARTIAL}checkpoint-*"):
            shutil.rmtree(leftover)
        for checkpoint in [] if keep_checkpoints else checkpoints_in(output):
            delete_checkpoint(checkpoint.path)
        gone = ("result.json", "learning-curve.png", *(() if keep_checkpoints else ("evaluation.csv",)))
        for name in gone:
            (output / name).unlink(missing_ok=True)
        write_whole(output / "metrics.csv", (CSV_HEADER + csv_lines(rows)).encode())
    except OSError as problem:
        raise UsageError(f"{flag} {output}: {problem}") from problem
