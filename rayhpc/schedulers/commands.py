"""The schedulers' commands, run: submit, states, cancel, the end of a job. The only owner of them."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhpc.errors import RayhpcError, configuration
from rayhpc.processes.environment import MARKER, scrubbed
from rayhpc.schedulers.arrays import complete, merged
from rayhpc.schedulers.facts import (
    BatchSystem,
    Environment,
    JobState,
    Query,
    Scheduler,
    State,
    cluster_of,
    flag,
    last_match,
    own_id,
    short,
)

# What a command has printed, and why it has not.
Said = tuple[str, str]
# Unix seconds, and a warning.
Deadline = tuple[float | None, str]

# A busy controller answers within seconds; a site's submit filter may ask other services first.
_SUBMIT_SECONDS = 120.0
_ASK_SECONDS = 60.0
_LEAST_SECONDS = 5.0
# Inside a job the cluster waits for the answer.
_DEADLINE_SECONDS = 5.0
_SHOWN_LINES = 10

# What the user has configured, among the many that describe the job we may be in.
_OTHER_CLUSTERS = "SLURM_CLUSTERS"  # where to submit; what is asked of a job from inside is asked of its own cluster
_SLURM_KEPT = ("SLURM_CONF", _OTHER_CLUSTERS)
# A run's own, which a job submitted by its driver must not take for its own.
_RUN_VARIABLES = (
    MARKER,
    "RAYHPC_RUN_ID",
    "RAYHPC_RUN_DIR",
    "RAYHPC_ALIVE_NODES",
    "RAYHPC_DEADLINE",
    "RAYHPC_DEADLINE_FILE",
    "RAYHPC_RESTARTS",
    "RAYHPC_CHAIN",
    "RAYHPC_FLUX_JOB",
)


@dataclass(frozen=True)
class Answer:
    """What a command has printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that are not empty."""
        lines = [line.rstrip() for line in f"{self.stdout}\n{self.stderr}".splitlines() if line.strip()]
        return tuple(lines[-_SHOWN_LINES:])


def run(argv: Sequence[str], seconds: float, stdin: Path | None = None, without: str = "") -> Answer:
    """A command's answer, whatever its code; raises RayhpcError if it cannot be run or is silent for so long.

    without: a variable that it shall not see.
    """
    environ = {name: value for name, value in outside(os.environ).items() if name != without}
    try:
        with Path(stdin or os.devnull).open("rb") as source:
            done = subprocess.run(
                list(argv), stdin=source, capture_output=True, timeout=seconds, env=environ, check=False
            )
    except subprocess.TimeoutExpired as error:
        raise configuration(
            f"{argv[0]} has not answered within {seconds:g} s",
            f"command: {shlex.join(argv)}",
            next_step="the scheduler may be busy or down: try again, or ask the site",
        ) from error
    except OSError as error:
        raise configuration(
            f"{argv[0]} cannot be run: {error.strerror}",
            f"command: {shlex.join(argv)}",
            f"PATH: {os.environ.get('PATH', '')}",
            next_step="go to a login node of the cluster, or load the module that has the scheduler's commands",
        ) from error
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def outside(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment as it would be outside of the job and the run that this process may be part of.

    sbatch hands its environment on, and a step's SLURM_NTASKS would size the new job. SQUEUE_* and SLURM_TIME_FORMAT
    change what the commands print.
    """
    in_job = "SLURM_JOB_ID" in environ
    in_run = MARKER in environ
    return {
        name: value
        for name, value in (scrubbed(environ) if in_run else environ).items()
        if not (in_run and name in _RUN_VARIABLES)
        and not (in_job and name.startswith("SLURM_") and name not in _SLURM_KEPT)
        and not name.startswith(("SQUEUE_", "SLURM_TIME_FORMAT"))
    }


def submit(system: BatchSystem, argv: Sequence[str], script: Path) -> str:
    """The id of the new job; raises RayhpcError with the command and its last lines where there is none."""
    answer = run(argv, _SUBMIT_SECONDS, script if system.on_stdin else None)
    if answer.code:
        step = f"correct the request, or the directives in {script}; --dry-run shows both"
        raise _refused(argv, answer, "the job", step)
    job_id = system.read_id(answer.stdout)
    if job_id is None:
        raise _refused(argv, answer, "no job id", f"look whether the job is in the queue: {_listing(system)}")
    return job_id


def cancel(system: BatchSystem, ids: Sequence[str]) -> None:
    """End the jobs, with one command for each cluster; raises RayhpcError if it refuses."""
    for cluster, numbers in _by_cluster(ids).items():
        argv = _at(system, cluster, [*system.cancel, *numbers])
        answer = run(argv, _ASK_SECONDS)
        if answer.code:
            what = f"to end {', '.join(numbers)}"
            raise _refused(argv, answer, what, "rayhpc alloc list shows what has ended already")


def cluster_here(system: BatchSystem) -> str:
    """The name of the cluster at which we are; empty where it has none; raises RayhpcError where it is refused."""
    if not system.cluster_query:
        return ""
    answer = run(system.cluster_query, _ASK_SECONDS)
    if answer.code:
        raise _refused(system.cluster_query, answer, "to name the cluster", "try again; if it stays so, ask the site")
    return last_match(system.cluster_name, answer.stdout) or ""


def states(system: BatchSystem, ids: Sequence[str]) -> dict[str, JobState]:
    """The state of every id, asked for all at once: UNKNOWN without a word for one that the scheduler does not know.

    Jobs at other clusters are asked for there. Raises RayhpcError where every way to ask is refused.
    """
    told = {cluster: _told(system, cluster, numbers) for cluster, numbers in _by_cluster(ids).items()}
    return {job_id: told[cluster_of(job_id)].get(short(job_id), JobState(State.UNKNOWN)) for job_id in ids}


def _by_cluster(ids: Sequence[str]) -> dict[str, list[str]]:
    """The ids at each cluster, without its name."""
    found: dict[str, list[str]] = {}
    for job_id in ids:
        found.setdefault(cluster_of(job_id), []).append(job_id.partition(";")[0])
    return found


def _at(system: BatchSystem, cluster: str, argv: Sequence[str]) -> list[str]:
    """The command as it asks a cluster."""
    return [*argv[:1], *flag(system.at_cluster, cluster), *argv[1:]]


def _told(system: BatchSystem, cluster: str, ids: Sequence[str]) -> dict[str, JobState]:
    """{short(id): state} of what one cluster knows."""
    found: dict[str, JobState] = {}
    refusals: list[RayhpcError] = []
    end = time.monotonic() + _ASK_SECONDS
    for place, query in enumerate(system.queries):
        missing = [job_id for job_id in ids if not complete(found.get(short(job_id)))]
        if missing and (not query.instead or len(refusals) == place):
            argv = _at(system, cluster, query.argv(missing))
            try:
                answers = _ask(query, argv, max(end - time.monotonic(), _LEAST_SECONDS))
            except RayhpcError as error:
                refusals.append(error)
            else:
                found |= {key: merged(found.get(key), state) for key, state in answers.items()}
    if len(refusals) == len(system.queries):
        raise refusals[0]
    return found


def _ask(query: Query, argv: Sequence[str], seconds: float) -> dict[str, JobState]:
    answer = run(argv, seconds)
    if answer.code and not re.search(query.unknown, answer.stderr + answer.stdout):
        raise _refused(argv, answer, "to tell the jobs' states", "try again; if it stays so, ask the site")
    return query.read(answer.stdout)


def deadline(scheduler: Scheduler, environ: Environment, now: float, said: Said | None = None) -> Deadline:
    """The end of the job that we are in, in Unix seconds: by the environment, else by what the scheduler says of it.

    None where neither knows, then with a warning if the asking went wrong. said: what describe() has returned, if it
    has been asked. Takes up to 5 s; never raises.
    """
    known = scheduler.deadline(environ)
    if known is not None or not scheduler.deadline_query:
        return known, ""
    text, warning = said or describe(scheduler, environ)
    end = scheduler.parse_deadline(text, now)
    return None if end == math.inf else end, warning and f"the end of the job is not known: {warning}"


def deadline_now(scheduler: Scheduler, environ: Environment, now: float) -> float | None:
    """The end of the job as the scheduler says now, infinite for a job without a limit; else as deadline()."""
    return scheduler.parse_deadline(describe(scheduler, environ)[0], now)


def describe(scheduler: Scheduler, environ: Environment) -> Said:
    """What the scheduler prints about the job that we are in; empty, with the reason, where it does not answer.

    Takes up to 5 s; never raises.
    """
    argv = [*scheduler.deadline_query, own_id(scheduler, environ)]
    try:
        answer = run(argv, _DEADLINE_SECONDS, without=_OTHER_CLUSTERS)
    except RayhpcError as error:
        return "", str(error)
    if answer.code:
        last = answer.last_lines[-1:] or ("it printed nothing",)
        return "", f"{shlex.join(argv)} ended with {answer.code}: {last[0]}"
    return answer.stdout, ""


def is_no_job_host(scheduler: Scheduler, host: str) -> str:
    """The scheduler's word that no jobs run on a host; empty where they do, or where it is not there to be asked.

    Takes up to 5 s; never raises.
    """
    if not scheduler.host_query or not shutil.which(scheduler.host_query[0]):
        return ""
    argv = [*scheduler.host_query, host]
    try:
        answer = run(argv, _DEADLINE_SECONDS)
    except RayhpcError:
        return ""  # a scheduler that is down cannot say that this host is none of its own
    said = [line for line in answer.last_lines if re.search(scheduler.no_job_host, line)]
    return f"{shlex.join(argv)}: {said[0]}" if answer.code and said else ""


def _refused(argv: Sequence[str], answer: Answer, what: str, next_step: str) -> RayhpcError:
    verb = "refused" if answer.code else "printed"
    return configuration(
        f"{argv[0]} {verb} {what}",
        f"command: {shlex.join(argv)}",
        f"exit code: {answer.code}",
        *(answer.last_lines or ("it printed nothing",)),
        next_step=next_step,
    )


def _listing(system: BatchSystem) -> str:
    """What a user types to see the queue."""
    return f"{system.queries[0].argv(())[0]} -u {os.environ.get('USER', '$USER')}"
