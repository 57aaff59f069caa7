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


def small_limits() -> tuple[str, ...]:
    """A warning for each hard limit that is small; raises RayhpcError for one with which Ray cannot work."""
    warnings = []
    for kind, what, flag in _KINDS:
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or (kind == resource.RLIMIT_NPROC and os.geteuid() == 0):
            continue  # root's processes are not limited
        if hard < _LEAST_LIMIT:
            from rayhpc.errors import configuration  # more than the rest of what `ray start` begins with

            raise configuration(*_too_few(hard, what, flag), next_step=_step(flag))
        if hard < AMPLE_LIMIT:
            warnings.append(f"only {hard} {what} are allowed (ulimit -H{flag}); Ray may need {AMPLE_LIMIT} and more")
    return tuple(warnings)


def _too_few(hard: int, what: str, flag: str) -> tuple[str, str]:
    """What is wrong, and the evidence."""
    evidence = f"hard limit (ulimit -H{flag}): {hard}"
    threads = "; threads count as processes, of all programs of this user on the host" if flag == "u" else ""
    return f"only {hard} {what} are allowed, and Ray needs {_LEAST_LIMIT} at least", evidence + threads


def _step(flag: str) -> str:
    return f"raise it where the job starts: ulimit -{flag} {AMPLE_LIMIT}; if that is refused, ask the site"
