"""End clusters in order: each is asked through its own rank 0, as by a signal, and gives everything back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rayhpc import paths
from rayhpc.clusters import sight
from rayhpc.clusters.liveness import Life
from rayhpc.errors import RayhpcError, configuration
from rayhpc.model import ClusterEntry
from rayhpc.records import registry

_PAUSE_SECONDS = 0.5
# A heartbeat and a port that are looked at this often say early that nobody is there to answer.
_GLANCE_SECONDS = 10.0


def ask_to_stop(entries: Sequence[ClusterEntry]) -> None:
    """Ask each run to end; one that has ended meanwhile is no fault. Raises RayhpcError where one cannot be asked."""
    who = f"{registry.account()} on {os.uname().nodename}"
    for entry in entries:
        try:
            registry.ask_to_stop(entry, who)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise configuration(
                f"the cluster {entry.id} cannot be asked to end: {error.strerror}",
                f"file: {error.filename}",
                next_step="check the file system; a signal to rank 0, or the scheduler's cancel, ends it too",
            ) from error


def wait_until_stopped(entries: Sequence[ClusterEntry], seconds: float, tell: Callable[[str], None]) -> None:
    """Wait until the entries are gone, and tell how each run ended; raises RayhpcError for one that stays."""
    end = time.monotonic() + seconds
    look_at = time.monotonic() + _GLANCE_SECONDS
    waiting = list(entries)
    while True:
        for entry in [entry for entry in waiting if not registry.exists(entry)]:
            waiting.remove(entry)
            tell(f"{entry.id}  {ended(entry)}")
        if not waiting:
            return
        if time.monotonic() > look_at:
            look_at = time.monotonic() + _GLANCE_SECONDS
            for entry in waiting:
                _check(entry)
        if time.monotonic() > end:
            raise _stays(waiting[0], f"has not ended within {seconds:g} s", sight.glance(waiting[0]).verdict.why)
        time.sleep(_PAUSE_SECONDS)


def _check(entry: ClusterEntry) -> None:
    """Raises RayhpcError for a cluster that is gone without having removed its entry: nobody will."""
    seen = sight.glance(entry)
    if seen.life is Life.GONE and registry.exists(entry):
        raise _stays(entry, "is gone and cannot answer", seen.verdict.why)


def _stays(entry: ClusterEntry, what: str, why: str) -> RayhpcError:
    job = f"; its job is {entry.batch_job_id} ({entry.scheduler})" if entry.batch_job_id else ""
    return configuration(
        f"the cluster {entry.id} {what}",
        f"{why}{job}",
        f"run directory: {entry.run_dir}",
        next_step=f"rayhpc cluster show {entry.id}; cancel its job if it has one; rayhpc cluster forget {entry.id}",
    )


def ended(entry: ClusterEntry) -> str:
    """How a run ended, by its own record: 'ended by SIGTERM; exit code 0'."""
    try:
        record = json.loads(Path(entry.run_dir, paths.OUTCOME).read_text())
        return f"{record['cause']}; exit code {record['code']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"has ended; how, {entry.run_dir} does not say"
