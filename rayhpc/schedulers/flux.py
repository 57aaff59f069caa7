"""Flux: https://flux-framework.readthedocs.io. A job of `flux batch` is an instance of its own, in its parent's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from rayhpc.schedulers.facts import (
    BatchSystem,
    JobState,
    Query,
    Request,
    Scheduler,
    State,
    flag,
    last_match,
    number,
)

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# What `flux job timeleft` prints for a job without a limit, or more.
_NO_LIMIT = 2**32 - 1


def parse_deadline(text: str, now: float) -> float | None:
    """Whole seconds that are left."""
    left = number(text.strip())
    if left is None:
        return None
    return math.inf if left >= _NO_LIMIT else now + left


FLUX = Scheduler("flux", "FLUX_JOB_ID", deadline_query=("flux", "job", "timeleft"), parse_deadline=parse_deadline)
# The ranks that jobscripts/flux.sh starts are a job within the job: the script tells them the outer one.
FLUX_SCRIPT = replace(FLUX, job_id="RAYHPC_FLUX_JOB", deadline_query=("flux", "--parent", "job", "timeleft"))

_STATES = {
    "NEW": State.PENDING,
    "DEPEND": State.PENDING,
    "PRIORITY": State.PENDING,
    "SCHED": State.PENDING,
    "RUN": State.RUNNING,
    "CLEANUP": State.RUNNING,
    "INACTIVE": State.ENDED,
    "COMPLETED": State.COMPLETED,
    "FAILED": State.FAILED,
    "CANCELED": State.CANCELLED,
    "TIMEOUT": State.TIMEOUT,
}


def _flags(request: Request, output: str, _script: str) -> list[str]:
    """One slot on each host, of so many cores and GPUs; where none are given the script's --exclusive stays."""
    seconds = request.seconds
    shares = request.cpus_per_node or request.gpus_per_node
    if shares and not request.nodes:
        raise ValueError("Flux counts slots: --cpus-per-node and --gpus-per-node need -N")
    return [
        *flag("--nodes={}", request.nodes),
        *flag("--nslots={}", request.nodes if shares else ""),
        *flag("--cores-per-slot={}", request.cpus_per_node),
        *flag("--gpus-per-slot={}", request.gpus_per_node),
        *flag("--time-limit={}s", seconds),
        *flag("--bank={}", request.account),
        *flag("--queue={}", request.queue),
        *flag("--job-name={}", request.name),
        f"--output={output}",
    ]


def read_id(text: str) -> str | None:
    """`flux batch` prints an f and a number to the base of 58; all commands take the decimal one as well."""
    found = last_match(rf"^\s*([\u0192f][{_BASE58}]{{1,12}}|[0-9]{{1,20}})\s*$", text)
    if found is None or found[0] in "0123456789":
        return found
    value = 0
    for digit in found[1:]:
        value = 58 * value + _BASE58.index(digit)
    return str(value)


def _jobs(ids: Sequence[str]) -> list[str]:
    return ["flux", "jobs", "-a", "--no-header", "--format={id.dec}|{state}|{result}|{returncode}", *ids]


def read_jobs(text: str) -> dict[str, JobState]:
    """Lines of ID|STATE|RESULT|CODE, the last two empty before the end, and the code -n for signal n."""
    found = {}
    for fields in (line.strip().split("|") for line in text.splitlines()):
        if len(fields) >= 4 and number(fields[0]) is not None:
            word = fields[2] if fields[1] == "INACTIVE" and fields[2] else fields[1]
            found[fields[0]] = _job_state(word, fields[3])
    return found


def _job_state(word: str, status: str) -> JobState:
    known = JobState(_STATES.get(word, State.UNKNOWN), word)
    code = int(status) if re.fullmatch("-?[0-9]{1,9}", status) else None
    if not known.ended or code is None:
        return known
    return replace(known, code=128 - code if code < 0 else code)


FLUX_SYSTEM = BatchSystem(
    name="flux",
    script="flux.sh",
    submit=("flux", "batch"),
    flags=_flags,
    read_id=read_id,
    queries=(Query(_jobs, read_jobs, unknown="unknown|not found"),),
    cancel=("flux", "cancel"),
)
