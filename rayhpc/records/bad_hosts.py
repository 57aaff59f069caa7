"""Hosts that were bad for runs of this account, by cluster, with reasons and dates: one file in the state directory."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayhpc import paths, schedulers
from rayhpc.errors import RayhpcError, configuration
from rayhpc.model import BadHost
from rayhpc.records import lock, run_directory
from rayhpc.schedulers.facts import Environment

_FILE = "bad-hosts.json"


@dataclass(frozen=True)
class Entry:
    """A host of a cluster that was bad; at: Unix seconds, of the last time."""

    cluster: str
    host: str
    reason: str
    at: float


def key(scheduler: str, cluster: str) -> str:
    """A cluster in the list: slurm/alpha, or the scheduler alone where the cluster has no name."""
    return f"{scheduler}/{cluster}" if cluster else scheduler


def remember(environ: Environment, hosts: Sequence[BadHost]) -> list[str]:
    """Add the hosts of this job's cluster, none outside of a job; a line for what went wrong, which ends no run."""
    scheduler = schedulers.detect(environ)
    if scheduler is None or not hosts:
        return []
    here = key(scheduler.name, scheduler.cluster(environ))
    fresh = [Entry(here, each.host, each.reason, each.at) for each in hosts]
    try:
        with _changing() as file:
            _write(file, [*_without(_read(file), here, {each.host for each in hosts}), *fresh])
    except (OSError, RuntimeError, RayhpcError) as error:
        return [f"the list of bad hosts could not be written: {error}"]
    return []


def every() -> list[Entry]:
    """The list, the oldest first; raises RayhpcError where it cannot be read."""
    try:
        return sorted(_read(_file()), key=lambda entry: entry.at)
    except (OSError, RuntimeError) as error:
        raise _unusable(error) from error


def forget(cluster: str, hosts: Collection[str]) -> list[Entry]:
    """Take hosts off the list, of all clusters where none is named; what was taken; raises RayhpcError."""
    try:
        with _changing() as file:
            known = _read(file)
            left = _without(known, cluster, hosts)
            _write(file, left)
    except (OSError, RuntimeError) as error:
        raise _unusable(error) from error
    return [entry for entry in known if entry not in left]


def _without(entries: Iterable[Entry], cluster: str, hosts: Collection[str]) -> list[Entry]:
    return [entry for entry in entries if entry.host not in hosts or cluster not in ("", entry.cluster)]


def _file() -> Path:
    return paths.state_dir(os.environ) / _FILE


@contextmanager
def _changing() -> Iterator[Path]:
    """While the list is read and written anew."""
    file = _file()
    run_directory.make_private(file.parent, exist_ok=True)
    with lock.only_writer(file):
        yield file


def _read(file: Path) -> list[Entry]:
    """The list, empty where there is none; raises OSError where it is none of ours."""
    try:
        return [Entry(**row) for row in json.loads(file.read_text())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise OSError(0, f"{file} is no list of bad hosts ({error}); remove it") from error


def _write(file: Path, entries: Sequence[Entry]) -> None:
    run_directory.write_report(file, entries)


def _unusable(error: Exception) -> RayhpcError:
    return configuration(
        f"the list of bad hosts cannot be used: {error}",
        next_step="name another directory with RAYHPC_STATE_DIR, or go on without: no --exclude-bad",
    )
