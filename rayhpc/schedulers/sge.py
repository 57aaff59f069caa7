"""Grid Engine: Son of Grid Engine, Univa, Altair. What its commands print was seen of 8.1.9."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rayhpc.schedulers.facts import (
    BatchSystem,
    Environment,
    JobState,
    Query,
    Request,
    Scheduler,
    State,
    flag,
    last_match,
    number,
    whole,
)

# Ended jobs are looked for so far back.
_DAYS = 30


def _slots(environ: Environment) -> dict[str, int]:
    """The file of the parallel environment, on the first host only: 'node1 4 main.q@node1 UNDEFINED'."""
    try:
        lines = Path(environ.get("PE_HOSTFILE", "")).read_text().splitlines()
    except (OSError, ValueError):
        return {}
    found: dict[str, int] = {}
    for words in (line.split() for line in lines):
        if len(words) >= 2 and (slots := number(words[1])) is not None:
            name = words[0].partition(".")[0]
            found[name] = found.get(name, 0) + slots
    return found


def _cpus(environ: Environment) -> int | None:
    """The slots of the job on this host, which are CPUs at most sites; all of them where it has one host."""
    slots = _slots(environ).get(socket.gethostname().partition(".")[0])
    return slots or (whole(environ, "NSLOTS") if environ.get("NHOSTS") == "1" else None)


def parse_deadline(text: str, _now: float) -> float | None:
    """The start and the hard run time in `qstat -xml -j`; None for a job that asked for no limit: its queue has one."""
    start = re.search(r"<JAT_start_time>([^<]+)</JAT_start_time>", text)
    limit = re.search(r"<CE_name>h_rt</CE_name>.*?<CE_doubleval>([0-9]{1,12}(?:\.[0-9]+)?)</CE_doubleval>", text, re.S)
    began = _unix(start[1]) if start else None
    return began + float(limit[1]) if began and limit else None


def _unix(text: str) -> float | None:
    """Seconds in one release, milliseconds in another, local time in a third."""
    seconds = number(text)
    if seconds is not None:
        return seconds / 1000 if seconds > 10**11 else float(seconds)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


SGE = Scheduler(
    "sge",
    "JOB_ID",
    cpus=_cpus,
    hosts=lambda environ: list(_slots(environ)),
    deadline_query=("qstat", "-xml", "-j"),
    parse_deadline=parse_deadline,
    also="SGE_TASK_ID",
    on_job_host="SGE_TASK_ID",
)


def _flags(request: Request, output: str, script: str) -> list[str]:
    """Slots in the script's own parallel environment, whose rule says how many of them are on a host."""
    seconds = request.seconds
    if request.gpus_per_node:
        raise ValueError("Grid Engine has no word for GPUs that all sites share: --directive '-l gpu=2', or the site's")
    return [
        *flag(f"-pe {_environment(script, request)} {{}}", _wanted(request)),
        *flag("-l h_rt={}", seconds),
        *flag("-P {}", request.account),
        *flag("-q {}", request.queue),
        *flag("-N {}", request.name),
        *("-j", "y", "-o", output),
    ]


def _wanted(request: Request) -> int | None:
    if request.cpus_per_node and not request.nodes:
        raise ValueError("Grid Engine counts slots: --cpus-per-node needs -N")
    return request.nodes and request.nodes * (request.cpus_per_node or 1)


def _environment(script: str, request: Request) -> str:
    found = re.search(r"^#\$\s+-pe\s+(\S+)", script, re.MULTILINE)
    if request.nodes and not found:
        raise ValueError("-N needs a parallel environment: a line '#$ -pe NAME 1' in the script; qconf -spl lists them")
    return found[1] if found else ""


def read_id(text: str) -> str | None:
    """`-terse` prints 123, of an array 123.1-10:1."""
    return last_match(r"^\s*([0-9]+)(?:\.[0-9:-]+)?\s*$|Your job(?:-array)? ([0-9]+)", text)


def _qstat(_ids: Sequence[str]) -> list[str]:
    """All of the user's: it takes no ids, and forgets a job at its end."""
    return ["qstat", "-xml", "-u", getpass.getuser()]


def read_qstat(text: str) -> dict[str, JobState]:
    """The states in `qstat -xml`."""
    pairs = re.findall(r"<JB_job_number>([0-9]+)</JB_job_number>.*?<state>(\w+)</state>", text, re.S)
    return {job_id: JobState(_state(word), word) for job_id, word in pairs}


def _state(word: str) -> State:
    """Letters: q waits, r runs, t starts, s S T are stopped, R was there before, h is held, E has failed, d goes."""
    if set(word) - set("qwrtsSTRhEdP"):
        return State.UNKNOWN
    return State.PENDING if "q" in word else State.RUNNING


def _qacct(_ids: Sequence[str]) -> list[str]:
    return ["qacct", "-o", getpass.getuser(), "-d", str(_DAYS), "-j"]


def read_qacct(text: str) -> dict[str, JobState]:
    """The records of `qacct -j`: an attempt that was rescheduled has one too, and is no end.

    In a parallel environment what mpiexec starts on another host may have a record of its own, before the job's, and
    nothing tells them apart: one that ended well says that the job has ended, not how.
    """
    found: dict[str, JobState] = {}
    for record in re.split(r"^=+$", text, flags=re.MULTILINE):
        facts = dict(re.findall(r"^(\w+)[ \t]+(\S.*?)[ \t]*$", record, re.MULTILINE))
        failed = facts.get("failed", "").partition(":")
        job_id, fault = facts.get("jobnumber", ""), number(failed[0].strip())
        if number(job_id) is None or fault is None:
            continue
        if fault in _RESCHEDULED:
            found.pop(job_id, None)
            continue
        end = _end(fault, number(facts.get("exit_status", "").partition(" ")[0]), failed[2].strip())
        if end.state is State.COMPLETED and facts.get("granted_pe", "NONE") != "NONE":
            end = JobState(State.ENDED, end.word)
        if end.state is not State.ENDED or job_id not in found:
            found[job_id] = end
    return found


# "failed" of a record: migrating, rescheduling (by 99 and by qmod -r).
_RESCHEDULED = (24, 25)
_OVERTIME = 37
_AFTER_THE_START = 100
_KILLED = 128 + 9


def _end(fault: int, code: int | None, why: str) -> JobState:
    """100 is a job that a signal has ended, as qdel's SIGKILL."""
    if fault == _OVERTIME:
        return JobState(State.TIMEOUT, str(fault), code, why)
    if fault == _AFTER_THE_START and code == _KILLED:
        return JobState(State.CANCELLED, str(fault), code, why)
    if fault or code:
        return JobState(State.FAILED, str(fault), code or None, why if fault else "")
    return JobState(State.COMPLETED, str(fault), code)


SGE_SYSTEM = BatchSystem(
    name="sge",
    script="sge.sh",
    submit=("qsub", "-terse"),
    flags=_flags,
    read_id=read_id,
    queries=(
        Query(_qstat, read_qstat),
        Query(_qacct, read_qacct, unknown="no jobs running since startup|not found"),
    ),
    cancel=("qdel",),
    live_output=True,
)
