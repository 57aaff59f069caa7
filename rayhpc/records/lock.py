"""Locks on what several commands or runs may write: one writer at a time, and who that is. The owner of filelock."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from rayhpc.errors import configuration
from rayhpc.records.run_directory import write_whole

_JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "COBALT_JOBID", "LSB_JOBID", "JOB_ID")
# A command writes such a file in milliseconds; a file server that fails over is away for longer.
_WRITE_SECONDS = 30.0


class BusyError(Exception):
    """Somebody else holds the lock: who, as 'pid 4711 on node1, job 42'."""


def take(file: Path, seconds: float = 0.0) -> BaseFileLock:
    """Hold a lock until it is released or the process has ended; raises BusyError naming its holder, and OSError."""
    try:
        lock = _taken(file, seconds)
    except Timeout:
        raise BusyError(_holder(file)) from None
    write_whole(_holder_file(file), json.dumps(_me()).encode())
    return lock


def _taken(file: Path, seconds: float) -> BaseFileLock:
    lock: BaseFileLock = FileLock(file, timeout=seconds)
    try:
        lock.acquire()
    except NotImplementedError:
        # A file system without flock: a file that is there or not, which a process that was killed leaves behind.
        if _is_gone(file):
            file.unlink(missing_ok=True)
        lock = SoftFileLock(file, timeout=seconds)
        lock.acquire()
    return lock


@contextmanager
def only_writer(file: Path) -> Iterator[None]:
    """While a command of ours changes a file that others change too; raises RayhpcError after 30 s, and OSError."""
    own = file.with_name(f"{file.name}.lock")
    try:
        lock = take(own, _WRITE_SECONDS)
    except BusyError as error:
        raise configuration(
            f"{file} cannot be written: it is in use by {error}",
            next_step=f"try again; if that process is dead: rm {own}",
        ) from None
    with lock:
        try:
            yield
        finally:
            _holder_file(own).unlink(missing_ok=True)


def _holder_file(file: Path) -> Path:
    return file.with_name(f"{file.name}-holder.json")


def _me() -> dict[str, str | int]:
    job = next((os.environ[name] for name in _JOB_IDS if name in os.environ), "")
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": job}


def _read(file: Path) -> dict[str, str | int]:
    try:
        return dict(json.loads(_holder_file(file).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _holder(file: Path) -> str:
    holder = _read(file)
    if not holder:
        return "another process"
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"pid {holder.get('pid')} on {holder.get('host')}{job}"


def _is_gone(file: Path) -> bool:
    """Whether the last holder was a process of this host that has ended."""
    holder = _read(file)
    return holder.get("host") == socket.gethostname() and not Path(f"/proc/{holder.get('pid')}").exists()
