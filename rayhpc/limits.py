"""How many files and processes the kernel grants to this process and to what it starts."""

from __future__ import annotations

import os
import resource

# With fewer Ray dies of it: the head's daemons alone open 75 files, a node on two CPUs runs 150 threads.
_LEAST_LIMIT = 256
# With fewer many CPUs or nodes may be too much: 3 files and 25 threads for each worker process.
_AMPLE_LIMIT = 4096
_KINDS = ((resource.RLIMIT_NOFILE, "open files", "n"), (resource.RLIMIT_NPROC, "processes", "u"))


def raise_soft() -> None:
    """Raise the soft limits to the hard ones, for all that this process starts from then on."""
    for kind, _, _ in _KINDS:
        soft, hard = resource.getrlimit(kind)
        if soft != hard:
            resource.setrlimit(kind, (hard, hard))


def small() -> tuple[str, ...]:
    """A warning for each hard limit that is small; raises RayhpcError for one with which Ray cannot work."""
    warnings = []
    for kind, what, flag in _KINDS:
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or (kind == resource.RLIMIT_NPROC and os.geteuid() == 0):
            continue  # root's processes are not limited
        if hard < _LEAST_LIMIT:
            from rayhpc.errors import configuration  # more than the rest of what `ray start` begins with

            raise configuration(*_too_few(hard, what, flag), next_step=_step(flag))
        if hard < _AMPLE_LIMIT:
            warnings.append(f"only {hard} {what} are allowed (ulimit -H{flag}); Ray may need {_AMPLE_LIMIT} and more")
    return tuple(warnings)


def _too_few(hard: int, what: str, flag: str) -> tuple[str, str]:
    """What is wrong, and the evidence."""
    evidence = f"hard limit (ulimit -H{flag}): {hard}"
    threads = "; threads count as processes, of all programs of this user on the host" if flag == "u" else ""
    return f"only {hard} {what} are allowed, and Ray needs {_LEAST_LIMIT} at least", evidence + threads


def _step(flag: str) -> str:
    return f"raise it where the job starts: ulimit -{flag} {_AMPLE_LIMIT}; if that is refused, ask the site"
