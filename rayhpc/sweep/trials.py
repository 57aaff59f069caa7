"""A sweep's directory: its trials, each with what it is, what it wrote and how it ended. The record decides.

sweep.json                what was asked for
trials/0007/trial.json    parameters and command, written before the trial first starts
trials/0007/output.log    what it prints, all attempts
trials/0007/metrics.jsonl what it reports
trials/0007/result.json   how it ended, written whole by the process beside it; without one the trial runs again
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rayhpc.errors import RayhpcError, configuration
from rayhpc.records import lock, run_directory
from rayhpc.sweep import plan
from rayhpc.sweep.plan import Sweep

FOLDER = "rayhpc-sweeps"
DEFINITION, TRIAL, RESULT = "sweep.json", "trial.json", "result.json"
OUTPUT, METRICS, TABLE = "output.log", "metrics.jsonl", "trials.csv"
# A sweep that was killed has ended its trials, and itself, by then.
LOCK_SECONDS = 10.0
# What makes trials comparable.
_SAME = ("space", "metric", "mode", "repeat")
# A trial that was stopped has no result: it runs again.
DONE, PRUNED, FAILED, STOPPED = "done", "pruned", "failed", "stopped"


@dataclass(frozen=True)
class Result:
    """How a trial ended. code: -n for signal n; metrics: its last report; problems: what was wrong with its reports."""

    state: str
    code: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    attempt: int = 1
    host: str = ""
    seconds: float = 0.0
    reason: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One run of the program. sample: its point of the space; values: of the point, and the seed."""

    number: int
    name: str
    sample: int
    values: Mapping[str, Any]
    command: tuple[str, ...]
    result: Result | None = None

    @property
    def key(self) -> str:
        """How its directory is called."""
        return f"{self.number:04d}"


def directory(sweep: Path, trial: Trial) -> Path:
    """Where a trial's files are."""
    return sweep / "trials" / trial.key


def plan_trial(sweep: Path, trial: Trial) -> None:
    """Record a trial before it starts for the first time."""
    place = directory(sweep, trial)
    place.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in asdict(trial).items() if name != "result"}
    run_directory.write_json(place / TRIAL, content)


def write_result(place: Path, result: Result) -> None:
    """Record how a trial ended: whole or not at all."""
    run_directory.write_json(place / RESULT, asdict(result))


def read_trials(sweep: Path) -> list[Trial]:
    """All trials that were planned, in order, each with its result if it has one."""
    return [_read(file) for file in sorted(sweep.glob(f"trials/*/{TRIAL}"))]


def _read(file: Path) -> Trial:
    content = _json(file)
    result = file.with_name(RESULT)
    found = Result(**_tuples(_json(result), "problems")) if result.exists() else None
    return Trial(**_tuples(content, "command"), result=found)


def _tuples(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {**content, name: tuple(content[name])}


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise configuration(
            f"{file} cannot be read: {error}", next_step="move the trial's directory away: the trial then runs again"
        ) from error


def find(parent: str, name: str) -> Path:
    """The directory of a sweep by its name, or of the newest; raises RayhpcError."""
    known = every(parent)
    found = [sweep for sweep in known if sweep.name == name] if name else known[-1:]
    if not found:
        raise _unknown(parent, name, known)
    return found[0]


def every(parent: str) -> list[Path]:
    """The sweeps below a directory, the one that was written to last at the end."""
    return sorted((file.parent for file in Path(parent).glob(f"*/{DEFINITION}")), key=lambda path: path.stat().st_mtime)


def _unknown(parent: str, name: str, known: Sequence[Path]) -> RayhpcError:
    names = [sweep.name for sweep in known[-8:]]
    return configuration(
        f"there is no sweep {name} in {parent}" if name else f"there is no sweep in {parent}",
        *([f"known: {', '.join(names)}"] if names else []),
        next_step="rayhpc sweep run sweep.yaml begins one; --dir names another place",
    )


def value(trial: Trial, metric: str) -> float | None:
    """The metric that a finished trial ended with."""
    done = trial.result is not None and trial.result.state == DONE
    return trial.result.metrics.get(metric) if done and trial.result else None


def means(trials: Sequence[Trial], metric: str, repeat: int) -> dict[int, float]:
    """The mean of each sample whose trials have all ended with the metric."""
    values: dict[int, list[float]] = {}
    for trial in trials:
        found = value(trial, metric)
        if found is not None:
            values.setdefault(trial.sample, []).append(found)
    return {sample: sum(found) / repeat for sample, found in values.items() if len(found) == repeat}


def best(trials: Sequence[Trial], sweep: Sweep) -> tuple[Trial, float]:
    """The first trial of the best sample, and the sample's mean; raises RayhpcError where none has the metric."""
    found = means(trials, sweep.metric, sweep.repeat)
    if not found:
        raise configuration(
            f"no sample of {sweep.name} has ended with the metric {sweep.metric or '(none)'}",
            next_step=f"rayhpc sweep show {sweep.name}; a trial reports by lines of JSON in $RAYHPC_TRIAL_METRICS",
        )
    choose = max if sweep.mode == "max" else min
    sample = choose(found, key=lambda number: found[number])
    return next(trial for trial in trials if trial.sample == sample), found[sample]


def reported(sweep: Path, trial: Trial) -> dict[str, float]:
    """The last report of a trial that has not ended, as it stands in its file; empty where there is none."""
    try:
        content = (directory(sweep, trial) / METRICS).read_text(encoding="utf-8", errors="replace")
        last = json.loads(content.rstrip().rpartition("\n")[2])
    except (OSError, ValueError):
        return {}  # not begun, or a line that is still being written
    if not isinstance(last, dict):
        return {}
    return {name: value for name, value in last.items() if isinstance(value, int | float)}


def reopen(sweep: Path, trial: Trial) -> None:
    """Let a trial that has ended run again; its old result is kept beside the new one."""
    file = directory(sweep, trial) / RESULT
    attempt = trial.result.attempt if trial.result else 1
    file.rename(file.with_name(f"result-{attempt}.json"))


@contextmanager
def opened(parent: Path, sweep: Sweep, resume: bool) -> Iterator[Path]:
    """The directory of a sweep that runs, for one process at a time; raises RayhpcError.

    Without resume it must be new; with it, a sweep that is there goes on.
    """
    folder = parent / sweep.name
    if folder.exists() and not resume:
        raise configuration(
            f"there is a sweep in {folder}",
            next_step="go on with it: --resume; or give this one another name: `name:`, tune.name=",
        )
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        _check_same(folder, sweep)
        run_directory.write_json(folder / DEFINITION, plan.record(sweep))
        yield folder


def _check_same(folder: Path, sweep: Sweep) -> None:
    """Raises RayhpcError for a sweep to which the trials that are there do not belong; more samples are welcome."""
    before = definition(folder) if (folder / DEFINITION).exists() else sweep
    changed = [name for name in _SAME if getattr(before, name) != getattr(sweep, name)]
    if changed:
        raise configuration(
            f"the sweep in {folder} was begun with another {' and '.join(changed)}",
            next_step="write it as it was, or begin a new sweep with another name: `name:`, tune.name=",
        )


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """While a process runs a sweep, or changes its results; raises RayhpcError where another does."""
    try:
        taken = lock.take(folder / "sweep.lock", LOCK_SECONDS)
    except lock.BusyError as busy:
        raise configuration(
            f"the sweep in {folder} is run by {busy}",
            next_step="wait for its end, or give this one another `name:`",
        ) from None
    with taken:
        yield


def definition(folder: Path) -> Sweep:
    """What a sweep was asked for; raises RayhpcError."""
    return plan.from_record(_json(folder / DEFINITION))


def table(trials: Sequence[Trial]) -> str:
    """All trials as CSV: number, name, state, what it was given and what it reported last."""
    values = list(dict.fromkeys(name for trial in trials for name in trial.values))
    metrics = list(dict.fromkeys(name for trial in trials if trial.result for name in trial.result.metrics))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "name", "state", "seconds", *values, *metrics])
    for trial in trials:
        result = trial.result or Result("open", 0)
        given = [trial.values.get(name, "") for name in values]
        writer.writerow(
            [trial.number, trial.name, result.state, f"{result.seconds:.1f}", *given]
            + [result.metrics.get(name, "") for name in metrics]
        )
    return stream.getvalue()
