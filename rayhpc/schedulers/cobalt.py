"""Cobalt, which ran the machines of the ALCF, with ALPS on its Crays."""

from __future__ import annotations

from collections.abc import Sequence

from rayhpc import units
from rayhpc.schedulers.facts import (
    BatchSystem,
    Environment,
    JobState,
    Query,
    Request,
    Scheduler,
    State,
    flag,
    hosts_file,
    last_match,
    number,
    whole,
)


def _deadline(environ: Environment) -> float | None:
    end = whole(environ, "COBALT_ENDTIME")
    return float(end) if end else None


def parse_deadline(text: str, now: float) -> float | None:
    """TimeRemaining of `qstat`, HH:MM:SS; N/A before the start."""
    for _, remaining in _rows(text):
        try:
            return now + units.seconds(remaining)
        except (ValueError, OverflowError):
            continue
    return None


COBALT = Scheduler(
    "cobalt",
    "COBALT_JOBID",
    deadline=_deadline,
    hosts=lambda environ: hosts_file(environ, "COBALT_NODEFILE"),
    deadline_query=("qstat", "--header", "JobID:TimeRemaining"),
    parse_deadline=parse_deadline,
)

# An ended job is not in the list any more.
_STATES = {
    "queued": State.PENDING,
    "starting": State.PENDING,
    "user_hold": State.PENDING,
    "admin_hold": State.PENDING,
    "dep_hold": State.PENDING,
    "dep_fail": State.PENDING,
    "maxrun_hold": State.PENDING,
    "running": State.RUNNING,
    "preempting": State.RUNNING,
    "killing": State.RUNNING,
    "exiting": State.RUNNING,
}


def _flags(request: Request, output: str, _script: str) -> list[str]:
    """Whole minutes, rounded up; hosts are handed out whole."""
    seconds = request.seconds
    if request.gpus_per_node or request.cpus_per_node:
        raise ValueError("Cobalt gives whole hosts, with all CPUs and GPUs: choose them by the queue")
    return [
        *flag("-n {}", request.nodes),
        *flag("-t {}", -(-seconds // 60) if seconds else ""),
        *flag("-A {}", request.account),
        *flag("-q {}", request.queue),
        *flag("--jobname {}", request.name),
        *("-o", output, "-e", f"{output}.error"),
    ]


def read_id(text: str) -> str | None:
    """qsub prints the number alone, behind lines about the project and the queue."""
    return last_match(r"^\s*([0-9]+)\s*$", text)


def _qstat(ids: Sequence[str]) -> list[str]:
    return ["qstat", "--header", "JobID:State", *ids]


def _rows(text: str) -> list[tuple[str, str]]:
    """(id, second column) of the lines that begin with an id."""
    rows = (line.split() for line in text.splitlines())
    return [(row[0], row[1]) for row in rows if len(row) >= 2 and number(row[0]) is not None]


def read_qstat(text: str) -> dict[str, JobState]:
    """The states in the table of `qstat`."""
    return {job_id: JobState(_STATES.get(word, State.UNKNOWN), word) for job_id, word in _rows(text)}


COBALT_SYSTEM = BatchSystem(
    name="cobalt",
    script="theta.pbs",
    submit=("qsub", "--mode", "script"),
    flags=_flags,
    read_id=read_id,
    queries=(Query(_qstat, read_qstat),),
    cancel=("qdel",),
)
