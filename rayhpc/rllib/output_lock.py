"""Two runs never write into one output directory."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.files import write_whole

LOCK, HOLDER = ".lock", ".lock-holder.json"
JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "COBALT_JOBID", "LSB_JOBID", "JOB_ID")


def locked(output: Path, flag: str = "--output") -> BaseFileLock:
    """Hold the directory until the lock is released or the process has ended; UsageError names who holds it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = _taken(output)
        write_whole(output / HOLDER, json.dumps(_me()).encode())
    except Timeout:
        raise UsageError(f"{flag} {output} is in use by {_holder(output)}: wait for its end, or give another") from None
    except OSError as problem:
        raise UsageError(f"{flag} {output}: {problem}") from problem
    return lock


def _taken(output: Path) -> BaseFileLock:
    lock: BaseFileLock = FileLock(output / LOCK, blocking=False)
    try:
        lock.acquire()
    except NotImplementedError:
        # A file system without flock: a file that is there or not, which a dead run leaves behind.
        if _is_gone(output):
            (output / LOCK).unlink(missing_ok=True)
        lock = SoftFileLock(output / LOCK, blocking=False)
        lock.acquire()
    return lock


def _me() -> dict[str, str | int]:
    job = next((os.environ[name] for name in JOB_IDS if name in os.environ), "")
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": job}


def _read(output: Path) -> dict[str, str | int]:
    try:
        return dict(json.loads((output / HOLDER).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _holder(output: Path) -> str:
    holder = _read(output)
    if not holder:
        return "another run"
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"pid {holder.get('pid')} on {holder.get('host')}{job}"


def _is_gone(output: Path) -> bool:
    """Whether the last holder was a process of this host that has ended."""
    holder = _read(output)
    return holder.get("host") == socket.gethostname() and not Path(f"/proc/{holder.get('pid')}").exists()
