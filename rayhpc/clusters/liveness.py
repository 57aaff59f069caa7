"""Is a registered cluster alive? Judged from its heartbeat, its scheduler and its port, never from its age alone. Pure.

Each witness may be wrong: clocks differ, a file server shows news late, another machine's scheduler that shares the
home has a job of the same id, a firewall answers for a port, a login node cannot reach the compute network.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rayhpc import units
from rayhpc.host.network import Knock
from rayhpc.schedulers.facts import JobState, State

# A beat comes every 10 s; NFS may show it a minute later.
FRESH_SECONDS = 90.0


class Life(Enum):
    """What has become of a cluster."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Witnesses:
    """What is known of a cluster. age: of its heartbeat, in seconds; job: None where no scheduler could be asked."""

    age: float
    port: Knock
    job: JobState | None = None

    @property
    def fresh(self) -> bool:
        """True if the run was there a moment ago."""
        return self.age <= FRESH_SECONDS


@dataclass(frozen=True)
class Verdict:
    """A cluster's state, and on whose word."""

    life: Life
    why: str


def judge(seen: Witnesses) -> Verdict:
    """The state that the witnesses make. A run that was there a moment ago is never called gone."""
    against = _against(seen)
    if seen.fresh:
        return Verdict(Life.UNKNOWN if against else Life.ALIVE, _reasons(against, _heard(seen.age)))
    if against:
        return Verdict(Life.GONE, _reasons(against, _heard(seen.age)))
    # The port alone proves nothing: the next process that found it free may be somebody else's.
    runs = seen.job is not None and seen.job.state is State.RUNNING
    alive = runs and seen.port is Knock.OPEN
    reasons = ("its job runs" if runs else "", f"port: {seen.port.value}", _heard(seen.age))
    return Verdict(Life.ALIVE if alive else Life.UNKNOWN, _reasons(*reasons))


def _against(seen: Witnesses) -> str:
    """Who says that the cluster is gone; empty if nobody does."""
    job, runs = seen.job, False
    if job is not None:
        runs = job.state is State.RUNNING
        if job.ended:
            return f"its job has ended ({job.state.name})"
        if job.state is State.PENDING:
            return "its job waits to run again"
        if not runs and not job.word and seen.port is not Knock.OPEN:
            return "its scheduler does not know the job any more"
    # While its job runs and it was there a moment ago, a firewall has answered.
    closed = seen.port is Knock.REFUSED and not (runs and seen.fresh)
    return "its port is closed" if closed else ""


def _reasons(*reasons: str) -> str:
    return ", ".join(filter(None, reasons))


def _heard(age: float) -> str:
    """'heard of 12 s ago'."""
    if age == float("inf"):
        return "never heard of"
    return f"heard of {units.age(age)} ago"
