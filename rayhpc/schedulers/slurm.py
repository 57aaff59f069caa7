"""Slurm: https://slurm.schedmd.com/sbatch.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES."""

from __future__ import annotations

import itertools
import math
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rayhpc.schedulers.arrays import Row, gathered
from rayhpc.schedulers.facts import (
    BatchSystem,
    Environment,
    JobState,
    Query,
    Request,
    Scheduler,
    State,
    clock,
    flag,
    last_match,
    number,
    whole,
)

# More than any cluster has.
_MOST_HOSTS = 100_000


def _cpus(environ: Environment) -> int | None:
    """What srun says of its step on this host; where another launcher has brought the first host's word, the job's."""
    host = socket.gethostname().partition(".")[0]
    if environ.get("SLURMD_NODENAME", "").partition(".")[0] != host:
        hosts = expanded(environ.get("SLURM_JOB_NODELIST", ""))
        granted = dict(zip(hosts, _counts(environ.get("SLURM_JOB_CPUS_PER_NODE", "")), strict=False))
        if host in granted:
            return granted[host]
    return whole(environ, "SLURM_CPUS_ON_NODE")


def _hosts(environ: Environment) -> list[str]:
    """Those of all components of a heterogeneous job: sbatch -N1 : -N2."""
    components = whole(environ, "SLURM_HET_SIZE") or 0
    names = [f"SLURM_JOB_NODELIST_HET_GROUP_{place}" for place in range(components)] or ["SLURM_JOB_NODELIST"]
    return [host for name in names for host in expanded(environ.get(name, ""))]


def _counts(text: str) -> list[int]:
    """4(x2),8 is 4, 4, 8."""
    found = re.findall(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?(?:,|$)", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def expanded(hosts: str) -> list[str]:
    """The names in a list of hosts as Slurm writes it: cn[1-2]-r[01-02] are four; at most 100 000 of them."""
    parts = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", hosts)
    return _first(itertools.chain.from_iterable(_names(part) for part in parts))


def _names(part: str) -> Iterator[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        yield head
        return
    numbers, _, tail = rest.partition("]")
    for middle, after in itertools.product(_first(_numbers(numbers)), _first(_names(tail))):
        yield f"{head}{middle}{after}"


def _first(names: Iterable[str]) -> list[str]:
    """As many names as a job can have: itertools.product reads its arguments to their end."""
    return list(itertools.islice(names, _MOST_HOSTS))


def _numbers(text: str) -> Iterator[str]:
    """01-03,7 is 01, 02, 03, 7."""
    for word in text.split(","):
        first, _, last = word.partition("-")
        if number(first) is None or (last and number(last) is None):
            yield word
        else:
            yield from (f"{n:0{len(first)}d}" for n in range(int(first), int(last or first) + 1))


def _memory(environ: Environment) -> int | None:
    """Slurm counts in MiB; 0 means all of the host."""
    per_node = whole(environ, "SLURM_MEM_PER_NODE")
    per_cpu, cpus = whole(environ, "SLURM_MEM_PER_CPU"), _cpus(environ)
    mebibytes = per_node or (per_cpu * cpus if per_cpu and cpus else 0)
    return mebibytes * 2**20 or None


def _deadline(environ: Environment) -> float | None:
    """Newer releases set it, where the job has a time limit; 22.05 does not."""
    end = whole(environ, "SLURM_JOB_END_TIME")
    return float(end) if end else None


def parse_deadline(text: str, _now: float) -> float | None:
    """EndTime of `scontrol -o show job`, which is local time; Unknown where the job has no limit."""
    match = re.search(r"StartTime=\S+ EndTime=(\S+)", text)
    if match and match[1] == "Unknown":
        return math.inf
    try:
        return time.mktime(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) if match else None
    except (ValueError, OverflowError):
        return None


def _own_id(environ: Environment) -> str:
    """Of a task of an array 12_3, by which it was submitted: its SLURM_JOB_ID is another number."""
    job, task = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{job}_{task}" if job and task else environ.get("SLURM_JOB_ID", "")


SLURM = Scheduler(
    "slurm",
    "SLURM_JOB_ID",
    _own_id,
    cpus=_cpus,
    memory=_memory,
    deadline=_deadline,
    hosts=_hosts,
    deadline_query=("scontrol", "-o", "show", "job"),
    parse_deadline=parse_deadline,
    on_job_host="SLURMD_NODENAME",
    host_query=("scontrol", "show", "node"),
    no_job_host=r"^Node \S+ not found",
    cluster=lambda environ: environ.get("SLURM_CLUSTER_NAME", ""),
)

_STATES = {
    "PENDING": State.PENDING,
    "CONFIGURING": State.PENDING,
    "REQUEUED": State.PENDING,
    "REQUEUE_FED": State.PENDING,
    "REQUEUE_HOLD": State.PENDING,
    "RESV_DEL_HOLD": State.PENDING,
    "SPECIAL_EXIT": State.PENDING,
    "RUNNING": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "RESIZING": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "STAGE_OUT": State.RUNNING,
    "STOPPED": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "COMPLETED": State.COMPLETED,
    "FAILED": State.FAILED,
    "BOOT_FAIL": State.FAILED,
    "LAUNCH_FAILED": State.FAILED,
    "NODE_FAIL": State.FAILED,
    "OUT_OF_MEMORY": State.FAILED,
    "CANCELLED": State.CANCELLED,
    "PREEMPTED": State.CANCELLED,
    "REVOKED": State.CANCELLED,
    "DEADLINE": State.TIMEOUT,
    "TIMEOUT": State.TIMEOUT,
}


def _flags(request: Request, output: str, _script: str) -> list[str]:
    """%j and the like in a path are replaced by Slurm; %% is a percent sign."""
    seconds = request.seconds
    return [
        *flag("--nodes={}", request.nodes),
        *flag("--time={}", clock(seconds) if seconds else ""),
        *flag("--account={}", request.account),
        *flag("--partition={}", request.queue),
        *flag("--mincpus={}", request.cpus_per_node),  # exactly so many, and no task is sized by it
        *flag("--gpus-per-node={}", request.gpus_per_node),
        *flag("--job-name={}", request.name),
        "--output=" + output.replace("%", "%%"),
        "--open-mode=append",  # else the second attempt of a requeued job would erase what the first one wrote
    ]


def without_hosts(request: Request, script: str, hosts: Sequence[str]) -> Request:
    """With all of them in one --exclude: of several the last one counts, and one of the command line alone."""
    directives = [*re.findall(r"^#SBATCH\s+(.*)$", script, re.MULTILINE), *request.directive]
    named = [found for text in directives for found in re.findall(r"(?:^|\s)(?:--exclude[= ]|-x\s*)(\S+)", text)]
    return replace(request, directive=(*request.directive, f"--exclude={','.join([*named, *hosts])}"))


def read_id(text: str) -> str | None:
    """`--parsable` prints 123 or 123;cluster; a site's own sbatch may print the long form all the same."""
    if found := last_match(r"Submitted batch job ([0-9]+(?: on cluster \S+)?)", text):
        return found.replace(" on cluster ", ";")
    return last_match(r"^\s*([0-9]+(?:;[\w.-]+)?)\s*$", text)


def _squeue(ids: Sequence[str]) -> list[str]:
    """`--me`, so that the controller sends our own jobs only; it remembers ended ones for MinJobAge, 5 minutes."""
    fields = "JobID:|,State:|,exit_code:|,Reason:|,ArrayJobID:|,ArrayTaskID:|"
    what = ["--me", "--states=all", "--array", "--federation", f"--jobs={','.join(ids)}"]
    return ["squeue", "--noheader", *what, f"--Format={fields}"]


def read_squeue(text: str) -> dict[str, JobState]:
    """Lines of ID|STATE|EXIT|REASON|ARRAY|TASK|, where EXIT is what wait(2) gave: the code, or below 256 a signal.

    A task of an array has an id of its own, and the last one the array's.
    """
    rows: list[Row] = []
    for fields in (line.split("|") for line in text.splitlines()):
        if len(fields) >= 4 and number(fields[0]) is not None:
            status = number(fields[2])
            code = None if status is None else status >> 8 or (128 + (status & 127) if status else 0)
            state = _job_state(fields[1], code, fields[3])
            array, task = (*fields[4:6], "", "")[:2]
            if number(array) is not None and task not in ("", "N/A"):
                rows.append((array, _task(task), state))
            if not task or task == "N/A" or fields[0] != array:
                rows.append((fields[0], "", state))
    return gathered(rows)


def _task(text: str) -> str:
    """4, or 2-9 of [2-9%3] for tasks that wait together."""
    return text.strip("[]").partition("%")[0]


def _sacct(ids: Sequence[str]) -> list[str]:
    what = ["--allocations", "--federation", f"--jobs={','.join(ids)}", "--format=JobID,State,ExitCode"]
    return ["sacct", "--noheader", "--parsable2", *what]


def read_sacct(text: str) -> dict[str, JobState]:
    """Lines of ID|STATE|CODE:SIGNAL; a state may go on, as in CANCELLED by 1000; 12_3 and 12_[4-9] are of an array."""
    rows: list[Row] = []
    for fields in (line.split("|") for line in text.splitlines()):
        job, _, task = fields[0].partition("_")
        if len(fields) >= 3 and number(job) is not None:
            code, signum = (number(part) for part in (*fields[2].split(":"), "", "")[:2])
            state = _job_state(fields[1].partition(" ")[0], 128 + signum if signum else code, "")
            rows.append((job, _task(task), state))
    return gathered(rows)


def _job_state(word: str, code: int | None, why: str) -> JobState:
    known = JobState(_STATES.get(word, State.UNKNOWN), word, code, "" if why == "None" else why)
    return known if known.ended else JobState(known.state, word, None, known.why)


SLURM_SYSTEM = BatchSystem(
    name="slurm",
    script="slurm.sbatch",
    submit=("sbatch", "--parsable"),
    flags=_flags,
    read_id=read_id,
    queries=(Query(_squeue, read_squeue, unknown="Invalid job id"), Query(_sacct, read_sacct)),
    cancel=("scancel",),
    at_cluster="--clusters={}",
    live_output=True,
    cluster_query=("scontrol", "show", "config"),
    cluster_name=r"^ClusterName\s*=\s*(\S+)",
    without_hosts=without_hosts,
)
