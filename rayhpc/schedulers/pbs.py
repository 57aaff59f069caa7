"""PBS Pro, OpenPBS, and Torque, which is PBS with some words replaced."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rayhpc import units
from rayhpc.schedulers.arrays import gathered
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
    hosts_file,
    job_of,
    last_match,
    number,
    task_of,
    whole,
)


def _cpus(environ: Environment) -> int | None:
    """PBS Pro sets NCPUS on the first host, Torque PBS_NUM_PPN."""
    return whole(environ, "NCPUS") or whole(environ, "PBS_NUM_PPN")


def parse_cpus(text: str) -> dict[str, int]:
    """exec_host of `qstat -f`: node1/0*4+node2/1 has 4 and 1, Torque's node1/0-3+node2/0,2 has 4 and 2."""
    found: dict[str, int] = {}
    for job in _jobs(text).values():
        for host, slots, cpus in re.findall(r"([^/+]+)/([0-9,-]+)(?:\*([0-9]{1,9}))?", job.get("exec_host", "")):
            count = int(cpus) if cpus else sum(map(_span, slots.split(",")))
            found[host.partition(".")[0]] = found.get(host.partition(".")[0], 0) + count
    return found


def _span(word: str) -> int:
    """0-3 are four."""
    first, last = (number(part) for part in (*word.split("-"), word)[:2])
    return max(1, last - first + 1) if first is not None and last is not None else 1


def parse_deadline(text: str, now: float) -> float | None:
    """The end by `qstat -f`: what Torque says is left, else the start, which is local time, and the walltime."""
    for job in _jobs(text).values():
        remaining = number(job.get("Walltime.Remaining", ""))
        if remaining is not None:
            return now + remaining
        try:
            start = time.strptime(job.get("stime") or job.get("start_time", ""), "%a %b %d %H:%M:%S %Y")
            return time.mktime(start) + units.seconds(job.get("Resource_List.walltime", ""))
        except (ValueError, OverflowError):
            continue
    return None


PBS = Scheduler(
    "pbs",
    "PBS_JOBID",
    cpus=_cpus,
    hosts=lambda environ: hosts_file(environ, "PBS_NODEFILE"),
    deadline_query=("qstat", "-f"),
    parse_cpus=parse_cpus,
    parse_deadline=parse_deadline,
    on_job_host="PBS_JOBID",
    host_query=("pbsnodes",),
    no_job_host="Unknown node",
)


@dataclass(frozen=True)
class _Dialect:
    """The words in which PBS and Torque differ.

    chunk: the resource that names the hosts and what is wanted of each; gpus, ranks: what that is called there, ranks
    empty where the hosts file does not depend on it; overtime: the exit status of a job that was killed for its
    walltime; cpus: what stands for the other's ncpus.
    """

    chunk: str
    cpus: str
    gpus: str
    ranks: str
    overtime: int


_PBS = _Dialect("select", "ncpus", "ngpus", "mpiprocs", -29)
_TORQUE = _Dialect("nodes", "ppn", "gpus", "", -11)


def _flags(dialect: _Dialect, request: Request, output: str, script: str) -> list[str]:
    """The chunk is the script's own with what the request says replaced: a flag replaces the directive as a whole."""
    seconds = request.seconds
    return [
        *flag("-l {}", _chunk(dialect, request, script)),
        *flag("-l walltime={}", clock(seconds) if seconds else ""),
        *flag("-A {}", request.account),
        *flag("-q {}", request.queue),
        *flag("-N {}", request.name),
        *("-j", "oe", "-o", output),
    ]


def _chunk(dialect: _Dialect, request: Request, script: str) -> str:
    """select=4:ncpus=64:ngpus=2 or nodes=4:ppn=64:gpus=2; empty where the script's directive can stay."""
    found = re.search(r"^#PBS\s+-l\s+(?:\S*,)?(select|nodes)=([^\s,]+)", script, re.MULTILINE)
    own = found[2] if found else ""
    said = _said(dialect, request)
    in_our_words = not found or found[1] == dialect.chunk
    if in_our_words and not said and request.nodes is None:
        return ""
    if "+" in own:
        raise ValueError(f"the script asks for several kinds of hosts ({own}): say it with --directive '-l …'")
    count, *wanted = own.split(":") if own else [""]
    nodes = request.nodes or number(count)
    if nodes is None:
        raise ValueError("neither -N nor the script says how many hosts")
    resources = {**_translated(dialect, [word.partition("=")[::2] for word in wanted]), **said}
    words = [f"{name}={value}" if value else name for name, value in resources.items()]
    return f"{dialect.chunk}={':'.join([str(nodes), *words])}"


def _said(dialect: _Dialect, request: Request) -> dict[str, str]:
    """What the request wants of each host."""
    wanted = {
        dialect.cpus: request.cpus_per_node,
        dialect.gpus: request.gpus_per_node,
        dialect.ranks: request.ranks,
    }
    return {name: str(value) for name, value in wanted.items() if name and value is not None}


def _translated(dialect: _Dialect, resources: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The resources of a chunk in the words of this dialect; what it has no word for is left out."""
    other = _PBS if dialect is _TORQUE else _TORQUE
    words = {other.cpus: dialect.cpus, other.gpus: dialect.gpus, other.ranks: dialect.ranks}
    renamed = {words.get(name, name): value for name, value in resources}
    return {name: value for name, value in renamed.items() if name}


def _without_chunks(script: str) -> str:
    """Torque refuses select and place, so they become comments; what they say is in the flags."""
    return re.sub(r"^#PBS(\s+-l\s+(?:select|place)=)", r"##PBS\1", script, flags=re.MULTILINE)


def read_id(text: str) -> str | None:
    """qsub prints 123.server; a site's banners come before it."""
    return last_match(r"^\s*([0-9]+(?:\[[0-9]*\])?(?:\.[\w.-]+)?)\s*$", text)


def _jobs(text: str) -> dict[str, dict[str, str]]:
    """{id: attributes} of `qstat -f`, which breaks long values and goes on behind a tab; the first of equals counts."""
    found: dict[str, dict[str, str]] = {}
    job: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if head := re.match(r"Job Id:\s*(\S+)", line):
            job, name = found.setdefault(head[1], {}), ""
        elif pair := re.match(r"\s+([\w.]+) = (.*)", line):
            name = "" if pair[1] in job else pair[1]
            job.setdefault(pair[1], pair[2].strip())
        elif line.startswith("\t") and name:
            job[name] += line.strip()
    return found


_LIVE = {
    "Q": State.PENDING,
    "H": State.PENDING,
    "W": State.PENDING,
    "T": State.PENDING,
    "R": State.RUNNING,
    "E": State.RUNNING,
    "B": State.RUNNING,
    "S": State.RUNNING,
    "U": State.RUNNING,
}
_ENDED = ("F", "X", "C")
# PBS Pro's JOB_SUBSTATE_TERMINATED: ended by qdel.
_DELETED = "91"


def read_qstat(dialect: _Dialect, text: str) -> dict[str, JobState]:
    """The states in `qstat -f`."""
    jobs = _jobs(text).items()
    return gathered((job_of(job_id), task_of(job_id), _job_state(dialect, job)) for job_id, job in jobs)


def _job_state(dialect: _Dialect, job: dict[str, str]) -> JobState:
    word, why = job.get("job_state", ""), job.get("comment", "")
    if word not in _ENDED:
        return JobState(_LIVE.get(word, State.UNKNOWN), word, None, why)
    text = job.get("Exit_status", job.get("exit_status", ""))
    status = int(text) if re.fullmatch("-?[0-9]{1,9}", text) else None
    return JobState(_end(dialect, status, job.get("substate") == _DELETED), word, _exit_code(status), why)


def _end(dialect: _Dialect, status: int | None, deleted: bool) -> State:
    if deleted:
        return State.CANCELLED
    if status is None:
        return State.ENDED
    if status == dialect.overtime:
        return State.TIMEOUT
    return State.FAILED if status else State.COMPLETED


def _exit_code(status: int | None) -> int | None:
    """256+n is signal n; below 0 PBS could not run the job or has killed it, and the job has no code."""
    if status is None or status < 0:
        return None
    return 128 + status - 256 if status >= 256 else status


def _qstat(*words: str) -> Query:
    dialect = _PBS if "-x" in words else _TORQUE
    return Query(
        argv=lambda ids: [*words, *(["-t"] if any("[]" in job_id for job_id in ids) else []), *ids],
        read=functools.partial(read_qstat, dialect),
        unknown="Unknown Job|[Jj]ob has finished|cannot be found",
        instead=True,
    )


PBS_SYSTEM = BatchSystem(
    name="pbs",
    script="pbs.pbs",
    submit=("qsub",),
    flags=functools.partial(_flags, _PBS),
    read_id=read_id,
    # -x adds ended jobs, where the server keeps them: else it is refused.
    queries=(_qstat("qstat", "-x", "-f"), _qstat("qstat", "-f")),
    cancel=("qdel",),
)
TORQUE_SYSTEM = BatchSystem(
    name="torque",
    script="pbs.pbs",
    submit=("qsub",),
    flags=functools.partial(_flags, _TORQUE),
    read_id=read_id,
    queries=(_qstat("qstat", "-f"),),
    cancel=("qdel",),
    adapted=_without_chunks,
)
