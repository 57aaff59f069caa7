"""Checks of the file systems that a run writes to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap import resources
from rayhpc.doctor.here import Here
from rayhpc.finding import Finding, fail, warn
from rayhpc.host import this_host

# A file system that is over quota often still accepts an empty file.
_TRIAL_BYTES = 256 * 1024
_LEAST_SHM = 80 * 2**20
_LEAST_RUN = 100 * 2**20


def temp_dir(here: Here) -> Iterator[Finding]:
    """There is a directory for Ray's session: short, local, safe, and with room.

    Ray's sockets lie there, whose paths end at 107 bytes. On a network file system they are slow or fail; without free
    inodes nothing can be made. Where another account may rename, it could put a directory of its own in the place of
    ours, which holds the token.
    """
    limit = paths.temp_base_limit(here.options.dashboard)
    _, notices = resources.temp_base(here.options.temp_dir, here.environ, limit)
    for text in notices:
        yield warn(text, next_step="name a better one with --temp-dir, or correct TMPDIR")


def shm(here: Here) -> Iterator[Finding]:
    """/dev/shm has room for an object store.

    Ray keeps objects there. In containers it often has 64 MiB: the store then goes to a disk and is slow.
    """
    free = this_host.free_space("/dev/shm")
    resources.check_store(here.options, free, here.environ)
    if free < _LEAST_SHM:
        yield warn(
            f"/dev/shm has less than {_LEAST_SHM >> 20} MiB free: Ray's object store goes to disk and will be slow",
            f"free: {free >> 20} MiB",
            next_step="remove what lies there; for a container: --shm-size, or bind the host's /dev/shm",
        )


def home(_: Here) -> Iterator[Finding]:
    """The home directory can be written.

    The registry of clusters is there, and so are the caches of torch, Triton and matplotlib: over quota, a driver dies
    in the middle of its first step.
    """
    try:
        place = Path.home()
        problem = _write_problem(place)
    except RuntimeError as error:
        place, problem = Path("~"), str(error)
    if problem:
        yield warn(
            f"the home directory cannot be written: {problem}",
            str(place),
            next_step="make room, or set HOME (and RAYHPC_STATE_DIR) to a directory that all hosts share",
        )


def umask(_: Here) -> Iterator[Finding]:
    """New files can be read by their owner, and written by no other account.

    rayhpc makes its own directories for their owner alone. What a driver writes has the umask of the job.
    """
    mask = _umask()
    if mask & 0o700:
        yield fail(f"umask {mask:04o}: you could not use your own files", next_step="umask 022 in the jobscript")
    elif not mask & 0o002:
        yield warn(
            f"umask {mask:04o}: any account may write what your driver writes", next_step="umask 022 in the jobscript"
        )


def _umask() -> int:
    """The kernel tells it; the call would have to change it, for all threads."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0o022)


def run_dir(here: Here) -> Iterator[Finding]:
    """The run directory can be written and has 100 MiB free.

    The record of a run and Ray's logs go there, at the end also those of a failure. Only rank 0 writes to it.
    """
    try:
        wanted = Path(here.options.run_dir).expanduser().absolute()
    except RuntimeError as error:
        yield fail(f"the run directory has no home: {error}", next_step="name a path without ~ with --run-dir")
        return
    place = next(path for path in (wanted, *wanted.parents) if path.exists())
    free = this_host.free_space(str(place))
    problem = _write_problem(place) or (f"{free >> 20} MiB free" if free < _LEAST_RUN else "")
    if problem:
        yield fail(
            f"the run directory cannot hold a run: {problem}", str(wanted), next_step="make room, or name --run-dir"
        )


def _write_problem(directory: Path) -> str:
    """Why nothing can be written to a directory; empty if it can."""
    try:
        with tempfile.TemporaryFile(dir=directory) as trial:
            trial.write(b"\0" * _TRIAL_BYTES)
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        return str(error.strerror)
    return ""
