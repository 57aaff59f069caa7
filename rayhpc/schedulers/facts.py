"""The tables that every scheduler fills in: as a job sees it from inside, and as the login node sees it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rayhpc import units
from rayhpc.options import option

Environment = Mapping[str, str]


def _unknown(_: Environment) -> None:
    return None


def _unread(_: str, __: float) -> None:
    return None


def _unnamed(_: Environment) -> str:
    return ""


def _no_hosts(_: Environment) -> list[str]:
    return []


@dataclass(frozen=True)
class Scheduler:
    """One batch system as a job sees it from inside: the variables it sets, and what they mean.

    job_id: the variable that holds it; own_id: the id of this job, of a task of an array the task's, as commands take
    it, where that is another; cpus: CPUs of the job on this host; memory: bytes of the job on this host; deadline: end
    of the job in Unix seconds. Each of these is None where the environment does not say. hosts: names of all hosts of
    the job, none where it does not say.
    deadline_query: the words before the job's id of a command that describes it; parse_cpus: the CPUs of the job on
    each host, from what that printed, where the environment may be another host's; parse_deadline: the end in Unix
    seconds from what that printed and the time at which it was asked, infinite for a job without a limit, None where it
    does not say.
    cluster: the name of the cluster that runs the job, empty where the environment does not say it.
    also: a variable that is set in every job too, where others use the name of the first one.
    on_job_host: a variable that is set on the hosts of a job only, not in the shell that has asked for them;
    host_query: the words before a host's name of a command that knows the hosts on which jobs run; no_job_host: a
    pattern of what it prints for any other host.
    """

    name: str
    job_id: str
    own_id: Callable[[Environment], str] | None = None
    cpus: Callable[[Environment], int | None] = _unknown
    memory: Callable[[Environment], int | None] = _unknown
    deadline: Callable[[Environment], float | None] = _unknown
    hosts: Callable[[Environment], list[str]] = _no_hosts
    deadline_query: tuple[str, ...] = ()
    parse_deadline: Callable[[str, float], float | None] = _unread
    parse_cpus: Callable[[str], dict[str, int]] | None = None
    cluster: Callable[[Environment], str] = _unnamed
    also: str = ""
    on_job_host: str = ""
    host_query: tuple[str, ...] = ()
    no_job_host: str = "(?!)"


def own_id(scheduler: Scheduler, environ: Environment) -> str:
    """The id by which the scheduler's commands name the job, or the task, that we are in."""
    return scheduler.own_id(environ) if scheduler.own_id else environ.get(scheduler.job_id, "")


def whole(environ: Environment, name: str) -> int | None:
    """A variable's value where it is a whole number."""
    return number(environ.get(name, ""))


def hosts_file(environ: Environment, name: str) -> list[str]:
    """The lines of the file that a variable names, each once; none on hosts that do not have it."""
    try:
        return list(dict.fromkeys(Path(environ.get(name, "")).read_text().split()))
    except (OSError, ValueError):
        return []


class State(Enum):
    """What has become of a job, whatever its scheduler calls it."""

    PENDING = "it waits to be started"
    RUNNING = "it has its hosts"
    COMPLETED = "it ended with 0"
    FAILED = "it ended with another code, or could not run"
    CANCELLED = "somebody ended it"
    TIMEOUT = "its time was over"
    ENDED = "it has ended; how, the scheduler does not say"
    UNKNOWN = "the scheduler does not know it, or says a word that we do not know"


_ENDS = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMEOUT, State.ENDED})
# By what a scheduler ends a job: SIGTERM, as 128+n.
_TERMINATED = 143


@dataclass(frozen=True)
class JobState:
    """A job's state in our words and in the scheduler's own, which is all there is to say of an UNKNOWN one.

    code: the exit code, 128+n for signal n, None where it is not known; why: the scheduler's reason; tasks: of a job
    array, the number and the state of each task.
    """

    state: State
    word: str = ""
    code: int | None = None
    why: str = ""
    tasks: tuple[tuple[str, JobState], ...] = ()

    @property
    def ended(self) -> bool:
        """True if it will not change any more."""
        return self.state in _ENDS

    @property
    def exit_code(self) -> int | None:
        """What waiting for the job ends with: 0 for a COMPLETED job only; None where nobody can say."""
        fallback = {State.COMPLETED: 0, State.FAILED: 1, State.CANCELLED: _TERMINATED, State.TIMEOUT: _TERMINATED}
        return self.code or fallback.get(self.state)


@dataclass(frozen=True)
class Request:
    """What a user asks of a scheduler. A field is an option of `rayhpc alloc submit`; what is not given, the
    script's own directives decide."""

    nodes: int | None = option(None, "Hosts.", short="-N", minimum=1, metavar="N")
    time: str = option("", "Time limit: minutes, or MM:SS, HH:MM:SS, D-HH:MM:SS.", short="-t", metavar="TIME")
    account: str = option("", "The project that pays.", short="-A", metavar="NAME")
    queue: str = option("", "Queue, or partition.", short="-q", metavar="NAME")
    cpus_per_node: int | None = option(None, "CPUs of each host.", minimum=1, metavar="C")
    gpus_per_node: int | None = option(None, "GPUs of each host.", minimum=0, metavar="G")
    ranks_per_host: str = option(
        "", "Ranks, that is Ray nodes, on each host: a number, or one on each gpu or numa domain.", metavar="R|gpu|numa"
    )
    name: str = option("", "Name of the job.", metavar="NAME")
    directive: tuple[str, ...] = option(
        (), "A flag of the scheduler's own, as --directive '--qos=high'. Repeatable.", multiple=True, metavar="FLAG"
    )

    @property
    def seconds(self) -> int | None:
        """The time limit in whole seconds, None if not given; raises ValueError for what is no time."""
        if not self.time:
            return None
        text = self.time.strip()
        limit = 60.0 * int(text) if re.fullmatch("[0-9]+", text) else _clock_time(text)
        if not 0 < limit < 10**10:
            raise ValueError(f"{self.time!r} is no time limit")
        return math.ceil(limit)

    @property
    def ranks(self) -> int | None:
        """The ranks on each host, None if not given as a number; raises ValueError for what is neither."""
        ranks = number(self.ranks_per_host)
        if ranks == 0 or (ranks is None and self.ranks_per_host not in ("", "gpu", "numa")):
            raise ValueError(f"--ranks-per-host is a number, gpu or numa, not {self.ranks_per_host!r}")
        return ranks


def _clock_time(text: str) -> float:
    if ":" not in text and "-" not in text:
        raise ValueError(f"{text!r} is no time limit: minutes, MM:SS, HH:MM:SS or D-HH:MM:SS")
    return units.seconds(text)


@dataclass(frozen=True)
class Query:
    """One command that tells the states of many jobs, and how to read it.

    argv: the command for these ids; read: {short(id): state} of what it printed, of which anything that is no job is
    left out; unknown: a pattern of what it prints, with an exit code, for ids that it does not know;
    instead: asked only where the query before was refused, else for what the one before does not know.
    """

    argv: Callable[[Sequence[str]], list[str]]
    read: Callable[[str], dict[str, JobState]]
    unknown: str = "(?!)"
    instead: bool = False


def unchanged(script: str) -> str:
    """The script as it is."""
    return script


@dataclass(frozen=True)
class BatchSystem:
    """One batch system as the login node sees it: commands as lists of words, and readers of what they print.

    script: the jobscript shipped for it, empty if there is none; submit: the words before flags and script;
    flags: the flags for a request, the job's output file and the script's text, ValueError for what cannot be said;
    read_id: the id of the job in what `submit` printed, None if there is none; cancel: the words before the ids;
    at_cluster: the words that send a command to another cluster, where ids name one; live_output: it writes the output
    file while the job runs; on_stdin: it reads the script's directives only from standard input; adapted: the script
    with the words that this system does not understand replaced; cluster_query: a command that names the cluster, by
    the pattern cluster_name; without_hosts: the request, for this script, that keeps the job from hosts, None where it
    cannot be said.
    """

    name: str
    script: str
    submit: tuple[str, ...]
    flags: Callable[[Request, str, str], list[str]]
    read_id: Callable[[str], str | None]
    queries: tuple[Query, ...]
    cancel: tuple[str, ...]
    at_cluster: str = ""
    live_output: bool = False
    on_stdin: bool = False
    adapted: Callable[[str], str] = unchanged
    cluster_query: tuple[str, ...] = ()
    cluster_name: str = ""
    without_hosts: Callable[[Request, str, Sequence[str]], Request] | None = None


def short(job_id: str) -> str:
    """The job's number, of an array's task with the task's, in one spelling for all schedulers.

    123 of 123.server.domain, of 123[].server, which is an array, and of 123;cluster; 123_4 of 123_4 and 123[4].server.
    """
    found = re.match(r"([0-9]+)(?:_([0-9]+)|\[([0-9]+)\])?", job_id)
    if found is None:
        return job_id.partition(".")[0]
    task = found[2] or found[3]
    return f"{found[1]}_{task}" if task else found[1]


def job_of(job_id: str) -> str:
    """The number of the job, of an array's task that of the array."""
    return short(job_id).partition("_")[0]


def task_of(job_id: str) -> str:
    """The number of the task in its array; empty for a job that is none."""
    return short(job_id).partition("_")[2]


def cluster_of(job_id: str) -> str:
    """The other cluster at which the job is: beta of 123;beta; empty for the one at which we are."""
    return job_id.partition(";")[2]


def flag(words: str, value: object) -> list[str]:
    """A flag's words with the value in the place of {}; nothing where no value is given."""
    return [] if value in (None, "") else [word.format(value) for word in words.split(" ")]


def clock(seconds: int) -> str:
    """HH:MM:SS, the hours as many as there are."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def last_match(pattern: str, text: str) -> str | None:
    """The group of the last match, line by line: banners come before what counts."""
    found = [match for line in text.splitlines() for match in re.finditer(pattern, line, re.ASCII)]
    return next((group for group in found[-1].groups() if group), None) if found else None


def number(text: str) -> int | None:
    """A whole number without a sign; None for anything else."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None
