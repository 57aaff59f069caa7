"""Jobs in many clusters: all of them, or those that are meant by an id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from rayhpc.errors import Fault, RayhpcError, configuration, shortened
from rayhpc.jobs import ray_api
from rayhpc.jobs.ray_api import Job, Server
from rayhpc.records.ids import select

_SIDE_BY_SIDE = 16
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A job and the cluster that has it."""

    server: Server
    job: Job


def each(servers: Sequence[Server], question: Callable[[Server], T]) -> list[tuple[T | None, Fault | None]]:
    """The answer of each cluster, or why there is none; all are asked at once."""

    def asked(server: Server) -> tuple[T | None, Fault | None]:
        try:
            return question(server), None
        except RayhpcError as error:
            return None, error.fault

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return list(pool.map(asked, servers))


def everywhere(servers: Sequence[Server]) -> tuple[list[Found], list[Fault]]:
    """All jobs, the oldest first, and why some clusters do not tell theirs."""
    answers = each(servers, ray_api.every)
    found = [Found(server, job) for server, (jobs, _) in zip(servers, answers, strict=True) for job in jobs or ()]
    faults = [fault for _, fault in answers if fault is not None]
    return sorted(found, key=lambda entry: (entry.job.started_at, entry.job.id)), faults


def meant(servers: Sequence[Server], words: Iterable[str], account: str = "") -> list[Found]:
    """The jobs that are meant by ids or their beginnings, without any the newest of an account.

    Raises RayhpcError for what is not there or is several.
    """
    known, faults = everywhere(servers)
    return [_selected(known, faults, word) for word in words] or [_newest(known, faults, account)]


def _newest(known: Sequence[Found], faults: Sequence[Fault], account: str) -> Found:
    own = [entry for entry in known if entry.job.is_of(account)]
    if own:
        return own[-1]
    if faults:
        raise RayhpcError(faults[0])
    raise configuration(
        f"{account} has submitted no job",
        f"clusters: {shortened(list(dict.fromkeys(entry.server.name for entry in known))) or 'none has any'}",
        next_step="rayhpc job submit -- python train.py; others' jobs: rayhpc job list --all-users --all-statuses",
    )


def _selected(known: Sequence[Found], faults: Sequence[Fault], word: str) -> Found:
    matching = select(
        known, lambda entry: entry.job.id == word, lambda entry: bool(word) and entry.job.id.startswith(word)
    )
    if len(matching) == 1:
        return matching[0]
    if not matching and faults:
        raise RayhpcError(faults[0])
    ids = shortened([entry.job.id for entry in reversed(matching or known)])
    what = f"{len(matching)} jobs are meant by {word}" if matching else f"there is no job {word}"
    raise configuration(what, f"known: {ids}", next_step="rayhpc job list --all-users --all-statuses")
