"""IBM Spectrum LSF."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Sequence

from rayhpc.schedulers.arrays import Row, gathered
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


def _cpus(environ: Environment) -> int | None:
    """The slots of the job on this host, which are CPUs at most sites; a job that has its hosts alone may use all."""
    if environ.get("LSB_EXCLUSIVE", "").upper() == "Y":
        return None
    return _slots(environ).get(socket.gethostname().partition(".")[0])


def _slots(environ: Environment) -> dict[str, int | None]:
    """LSB_MCPU_HOSTS is 'hostA 16 hostB 16'."""
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    return {name.partition(".")[0]: number(count) for name, count in zip(words[::2], words[1::2], strict=False)}


def parse_deadline(text: str, now: float) -> float | None:
    """time_left of `bjobs -o`: '1:30 L' is an hour and a half to the limit; '-' where there is none."""
    match = re.search(r"^\s*([0-9]{1,9}):([0-9]{1,2})(?::([0-9]{1,2}))?(?:\s+[LEX])?\s*$", text, re.MULTILINE)
    if not match:
        return math.inf if text.strip() == "-" else None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return now + 3600 * hours + 60 * minutes + seconds


def _own_id(environ: Environment) -> str:
    """Of an element of an array 12[3]; LSB_JOBINDEX is 0 in any other job."""
    index = whole(environ, "LSB_JOBINDEX")
    return environ.get("LSB_JOBID", "") + (f"[{index}]" if index else "")


LSF = Scheduler(
    "lsf",
    "LSB_JOBID",
    _own_id,
    cpus=_cpus,
    hosts=lambda environ: list(_slots(environ)),
    deadline_query=("bjobs", "-noheader", "-o", "time_left"),
    parse_deadline=parse_deadline,
)

_STATES = {
    "PEND": State.PENDING,
    "PSUSP": State.PENDING,
    "PROV": State.PENDING,
    "WAIT": State.PENDING,
    "RUN": State.RUNNING,
    "SSUSP": State.RUNNING,
    "USUSP": State.RUNNING,
    "DONE": State.COMPLETED,
    "EXIT": State.FAILED,
}
_TIMEOUTS = ("TERM_RUNLIMIT", "TERM_DEADLINE", "TERM_WINDOW")
_CANCELS = ("TERM_OWNER", "TERM_ADMIN", "TERM_FORCE_OWNER", "TERM_FORCE_ADMIN", "TERM_PREEMPT")


def _flags(request: Request, output: str, _script: str) -> list[str]:
    """Slots, so many on each host, since LSF counts no hosts; hours and minutes, rounded up."""
    slots = request.cpus_per_node or 1
    if request.cpus_per_node and not request.nodes:
        raise ValueError("LSF counts slots: --cpus-per-node needs -N")
    seconds = request.seconds
    minutes = -(-seconds // 60) if seconds else 0
    return [
        *flag(f"-n {{}} -R span[ptile={slots}]", request.nodes and request.nodes * slots),
        *flag("-W {}", f"{minutes // 60}:{minutes % 60:02d}" if minutes else ""),
        *flag("-P {}", request.account),
        *flag("-q {}", request.queue),
        *flag("-gpu num={}", request.gpus_per_node or ""),
        *flag("-J {}", request.name),
        *("-o", output),
    ]


def read_id(text: str) -> str | None:
    """Job <123> is submitted to queue <normal>."""
    return last_match(r"Job <([0-9]+)> is submitted", text)


def _bjobs(ids: Sequence[str]) -> list[str]:
    return ["bjobs", "-a", "-noheader", "-o", "jobid stat exit_code exit_reason jobindex delimiter='|'", *ids]


def read_bjobs(text: str) -> dict[str, JobState]:
    """Lines of ID|STATE|CODE|REASON|INDEX, '-' for what does not apply, 0 as the index of what is no array."""
    rows: list[Row] = []
    for fields in (line.strip().split("|") for line in text.splitlines()):
        if len(fields) >= 4 and number(fields[0]) is not None:
            index = number((*fields, "")[4])
            task = str(index) if index else ""
            rows.append((fields[0], task, _job_state(fields[1], number(fields[2]), fields[3])))
    return gathered(rows)


def _job_state(word: str, code: int | None, why: str) -> JobState:
    state, why = _STATES.get(word, State.UNKNOWN), "" if why == "-" else why
    if word == "EXIT" and why.startswith(_TIMEOUTS):
        state = State.TIMEOUT
    elif word == "EXIT" and why.startswith(_CANCELS):
        state = State.CANCELLED
    known = JobState(state, word, code, why)
    return known if known.ended else JobState(state, word, None, why)


LSF_SYSTEM = BatchSystem(
    name="lsf",
    script="lsf.lsf",
    submit=("bsub",),
    flags=_flags,
    read_id=read_id,
    queries=(Query(_bjobs, read_bjobs, unknown="is not found|No (unfinished )?job found"),),
    cancel=("bkill",),
    on_stdin=True,
)
