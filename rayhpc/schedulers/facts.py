"""The table that every scheduler fills in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Environment = Mapping[str, str]


def _unknown(_: Environment) -> None:
    return None


@dataclass(frozen=True)
class Scheduler:
    """One batch system as a job sees it from inside: the variables it sets, and what they mean.

    job_id: the variable that holds it; cpus: CPUs of the job on this host; memory: bytes of the job on this host;
    deadline: end of the job in Unix seconds. Each is None where the environment does not say.
    """

    name: str
    job_id: str
    cpus: Callable[[Environment], int | None] = _unknown
    memory: Callable[[Environment], int | None] = _unknown
    deadline: Callable[[Environment], float | None] = _unknown


def whole(environ: Environment, name: str) -> int | None:
    """A variable's value where it is a whole number."""
    value = environ.get(name, "")
    return int(value) if value.isdigit() else None
