"""This process before it starts anything: its standard streams, its descendants, its limits of files and processes."""

from __future__ import annotations

import os
import resource
import sys

from rayhpc.processes.keeper import become_subreaper, write_no_core_files

# With fewer Ray dies of it: the head's daemons alone open 75 files, a node on two CPUs runs 150 threads.
_LEAST_LIMIT = 256
# With fewer many CPUs or nodes may be too much: 3 files and 25 threads for each worker process.
AMPLE_LIMIT = 4096
_CGROUP = "the cgroup's pids.max"
_KINDS = ((resource.RLIMIT_NOFILE, "open files", "n"), (resource.RLIMIT_NPROC, "processes", "u"))


def prepare() -> None:
    """What every rank does first: answer for its descendants, keep no secret in a core file, raise their limits."""
    become_subreaper()
    write_no_core_files()
    raise_soft_limits()


def open_closed_streams() -> None:
    """Put /dev/null where standard input, output or error is closed: else the next pipe of ours would be there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    # Python has None for what was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def raise_soft_limits() -> None:
    """Raise the soft limits to the hard ones, for all that this process starts from then on."""
    for kind, _, _ in _KINDS:
        soft, hard = resource.getrlimit(kind)
        if soft != hard:
            resource.setrlimit(kind, (hard, hard))


def small_limits(cgroup: int | None = None) -> tuple[str, ...]:
    """A warning for each hard limit that is small; raises RayhpcError for one with which Ray cannot work.

    cgroup: how many processes the cgroup of this process allows, None where it does not say.
    """
    warnings = []
    for limit, what, name, step in _limits(cgroup):
        if limit < _LEAST_LIMIT:
            from rayhpc.errors import configuration  # more than the rest of what `ray start` begins with

            raise configuration(*_too_few(limit, what, name), next_step=step)
        if limit < AMPLE_LIMIT:
            warnings.append(f"only {limit} {what} are allowed ({name}); Ray may need {AMPLE_LIMIT} and more")
    return tuple(warnings)


def _limits(cgroup: int | None) -> list[tuple[int, str, str, str]]:
    """The limits that there are: the number, of what, how the limit is called, and how it is raised."""
    found = []
    for kind, what, flag in _KINDS:
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or (kind == resource.RLIMIT_NPROC and os.geteuid() == 0):
            continue  # root's processes are not limited
        step = f"raise it where the job starts: ulimit -{flag} {AMPLE_LIMIT}; if that is refused, ask the site"
        found.append((hard, what, f"ulimit -H{flag}", step))
    if cgroup is not None:
        step = "ask the scheduler for more CPUs, or the site for a higher limit; in a container: --pids-limit"
        found.append((cgroup, "processes", _CGROUP, step))
    return found


def _too_few(limit: int, what: str, name: str) -> tuple[str, str]:
    """What is wrong, and the evidence."""
    whose = "all programs in the cgroup" if name == _CGROUP else "all programs of this user on the host"
    threads = f"; threads count as processes, of {whose}" if what == "processes" else ""
    return f"only {limit} {what} are allowed, and Ray needs {_LEAST_LIMIT} at least", f"{name}: {limit}{threads}"


def address_space() -> int | None:
    """Bytes that a process of this rank may map (ulimit -v); None without a limit."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft
