"""What `rayhpc runs show` says of a run, line by line."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.errors import MEANINGS, ExitCode, RayhpcError, counted, shortened
from rayhpc.records import runs as recorded
from rayhpc.records.runs import Run
from rayhpc.schedulers.facts import job_of

Line = tuple[str, str]

_MANY = 3


def run_lines(run: Run) -> list[Line]:
    """(name, text) of each line."""
    spec, outcome = recorded.details(run)
    job = [("job", f"{run.batch_job_id} ({spec.get('scheduler', '')})")] if run.batch_job_id else []
    return [
        ("run", run.id),
        ("state", run.words if run.code is None else f"{run.words}; exit code {run.code}"),
        *_fault(outcome),
        *(("problem", str(text)) for text in outcome.get("problems", ())),
        *job,
        *_times(run),
        *_guests(run),
        ("hosts", _hosts(run, spec)),
        *_replacements(run, spec),
        ("versions", _versions(spec)),
        ("driver", _driver(run)),
        ("directory", run.directory),
        *(("", f"{name:<24} {what}") for name, what in _files(Path(run.directory))),
        *(("next", command) for command in _next(run, outcome)),
    ]


def _driver(run: Run) -> str:
    if run.command is None:
        return "not known"
    return shlex.join(run.command) or "none: the cluster is held"


def _fault(outcome: Mapping[str, Any]) -> list[Line]:
    """The parts of a fault of ours, and what its code means."""
    fault = outcome.get("fault")
    if not isinstance(fault, Mapping):
        return []
    where = [("where", str(fault["where"]))] if fault.get("where") else []
    evidence = [("evidence" if place == 0 else "", str(line)) for place, line in enumerate(fault.get("evidence", ()))]
    code = outcome.get("code")
    meaning = [("means", MEANINGS[ExitCode(code)])] if code in set(ExitCode) else []
    step = [("to do", str(fault["next_step"]))] if fault.get("next_step") else []
    return [*meaning, *where, *evidence, *step]


def _times(run: Run) -> list[Line]:
    """When it began, and how long it took, by its events."""
    events = _events(run)
    if not events:
        return []
    at = {str(event.get("stage")): float(event["at"]) for event in events}
    began = min(float(event["at"]) for event in events)
    seconds = {stage: at[stage] - began for stage in ("up", "released") if stage in at}
    up = f", up after {seconds['up']:.1f} s" if "up" in seconds else ""
    took = f", over after {seconds['released']:.1f} s" if "released" in seconds else ""
    return [("began", f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(began))}{up}{took}")]


def _guests(run: Run) -> list[Line]:
    """The nodes that other jobs have brought, and when they left."""
    found: dict[str, str] = {}
    for event in _events(run, "joined", "left"):
        node, at = str(event.get("node")), _clock(event)
        came = event["stage"] == "joined"
        found[node] = f"{node} at {event.get('address')}: since {at}" if came else f"{found.get(node, node)} until {at}"
    return [("guest", text) for text in found.values()]


def _hosts(run: Run, spec: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(str(node.get("host")) for node in spec.get("nodes", ())))
    return f"{shortened(names)}; {counted(run.nodes, 'Ray node')} on {counted(run.hosts, 'host')}"


def _replacements(run: Run, spec: Mapping[str, Any]) -> list[Line]:
    """Which spares have taken whose places."""
    host_of = {node.get("rank"): node.get("host") for node in (*spec.get("nodes", ()), *spec.get("spares", ()))}
    return [
        ("replaced", f"rank {event['rank']} on {event['host']} at {_clock(event)}: "
         f"by rank {event['by']} on {host_of.get(event['by'], 'a host not known')}")
        for event in _events(run, "replaced")
    ]  # fmt: skip


def _events(run: Run, *stages: str) -> list[dict[str, Any]]:
    """The run's events of these stages, or all; none of a run that was lost with its first lines."""
    try:
        events = recorded.events(run)
    except RayhpcError:
        return []
    return [event for event in events if not stages or event.get("stage") in stages]


def _clock(event: Mapping[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(float(event["at"])))


def _versions(spec: Mapping[str, Any]) -> str:
    versions = spec.get("versions", {})
    return f"Ray {versions.get('ray')}, Python {versions.get('python')}, rayhpc {versions.get('rayhpc')}"


def _files(directory: Path) -> list[tuple[str, str]]:
    """The files that are there, each with what it is; of many of a kind the first and the number."""
    found = []
    for pattern, what in paths.RUN_FILES.items():
        names = sorted((path.name for path in directory.glob(pattern)), key=lambda name: (len(name), name))
        shown = names if len(names) <= _MANY else [f"{names[0]} … {names[-1]}"]
        found += [(name, what) for name in shown]
    return found


def _next(run: Run, outcome: Mapping[str, Any]) -> list[str]:
    """Commands that fit what has become of the run."""
    directory = shlex.quote(run.directory)
    if not outcome:
        look = [f"rayhpc cluster show {run.id}"] if run.silence is not None else []
        return [*look, f"tail {directory}/{paths.EVENTS}", f"rayhpc runs plot {directory}"]
    logs = Path(run.directory, paths.LOGS)
    return [
        *([f"rayhpc alloc logs {job_of(run.batch_job_id)}"] if run.batch_job_id else []),
        *([f"tar tzf {shlex.quote(str(logs))}"] if run.code and logs.exists() else []),
        f"rayhpc runs plot {directory}",
    ]
