"""What has become of the clusters in the registry: one question to each scheduler, one knock at each port."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rayhpc.clusters.liveness import Life, Verdict, Witnesses, judge
from rayhpc.errors import Fault, RayhpcError
from rayhpc.host import network
from rayhpc.model import ClusterEntry
from rayhpc.records import registry
from rayhpc.schedulers import SYSTEMS, commands
from rayhpc.schedulers.facts import JobState

_KNOCK_SECONDS = 2.0
_AT_ONCE = 32


@dataclass(frozen=True)
class Sight:
    """An entry, and whether its cluster is alive. age: seconds since its last heartbeat."""

    entry: ClusterEntry
    verdict: Verdict
    age: float

    @property
    def life(self) -> Life:
        """Alive, gone or unknown."""
        return self.verdict.life


def look(entries: Sequence[ClusterEntry]) -> tuple[list[Sight], list[Fault]]:
    """All entries with their verdicts; and why a scheduler could not be asked, which makes it no witness."""
    jobs, faults = _jobs(entries)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda entry: _sight(entry, jobs.get(entry.id)), entries)), faults


def glance(entry: ClusterEntry) -> Sight:
    """The same of one entry without asking its scheduler, which may take a minute: heartbeat and port alone."""
    return _sight(entry, None)


def _sight(entry: ClusterEntry, job: JobState | None) -> Sight:
    age = registry.heartbeat_age(entry)
    return Sight(entry, judge(Witnesses(age, network.knock(entry.address, _KNOCK_SECONDS), job)), age)


def _jobs(entries: Sequence[ClusterEntry]) -> tuple[dict[str, JobState], list[Fault]]:
    """The state of each entry's job, by the entry's id."""
    found: dict[str, JobState] = {}
    faults = []
    for name in dict.fromkeys(entry.scheduler for entry in entries if entry.scheduler in SYSTEMS):
        asked = [entry for entry in entries if entry.scheduler == name and entry.batch_job_id]
        try:
            told = commands.states(SYSTEMS[name], [entry.batch_job_id for entry in asked]) if asked else {}
        except RayhpcError as error:
            faults.append(error.fault)
        else:
            found |= {entry.id: told[entry.batch_job_id] for entry in asked}
    return found, faults
