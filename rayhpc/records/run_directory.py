"""The run directory: what was agreed, what happened when, how it ended. Written atomically; the only owner of it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.errors import configuration
from rayhpc.host import ownership
from rayhpc.user_input.files import LIMIT, check_kind
from rayhpc.user_input.secret_names import masked_log

# A run directory on a full file system or over quota often still accepts an empty file.
_TRIAL_BYTES = 256 * 1024


def create(parent: str, run_id: str) -> Path:
    """Make the directory of a run; raises RayhpcError where it cannot be made or cannot hold data."""
    try:
        directory = Path(parent).expanduser().absolute() / run_id
    except RuntimeError as error:
        raise configuration(
            f"the run directory {parent} has no home: {error}", next_step="name a path without ~ with --run-dir"
        ) from error
    try:
        make_private(directory)
        _try_out(directory)
    except OSError as error:
        raise configuration(
            f"the run directory {directory} cannot be written: {error.strerror}",
            next_step="name a writable one with --run-dir, or make room there",
        ) from error
    _point_latest(directory)
    return directory


def planted(directory: Path) -> str:
    """Where a run really lies whose place is a link, which may be somebody else's; empty where it lies by its name."""
    return str(directory.resolve()) if directory.parent.is_symlink() else ""


def make_private(directory: Path, exist_ok: bool = False) -> None:
    """Make a directory and what is missing above it for its owner alone, whatever the umask; raises OSError."""
    for missing in reversed([path for path in directory.parents if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)  # another run may be making it, too
    directory.mkdir(mode=0o700, exist_ok=exist_ok)


def _try_out(directory: Path) -> None:
    """Write and remove a file; raises OSError, after removing the directory too, where it cannot hold data."""
    trial = directory / ".trial"
    try:
        with trial.open("wb") as file:
            file.write(b"\0" * _TRIAL_BYTES)
            os.fsync(file.fileno())
        trial.unlink()
    except OSError:
        trial.unlink(missing_ok=True)
        directory.rmdir()
        raise


def _point_latest(directory: Path) -> None:
    """Let `latest` beside the run point at it, in one step even when several runs start at once."""
    link = directory.parent / paths.LATEST
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".latest-") as scratch:
        fresh = Path(scratch, paths.LATEST)
        # Some file systems have no links; anything else of that name is somebody's own.
        with contextlib.suppress(OSError):
            fresh.symlink_to(directory.name)
            if link.is_symlink() or not link.exists():
                fresh.replace(link)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file that is there whole or not at all, readable by its owner alone."""
    write_whole(file, _json(content))


def write_report(file: Path, content: Any) -> None:
    """Write JSON that people read: as write_json(), without the secrets of the environment."""
    write_whole(file, report(content))


def report(content: Any) -> bytes:
    """JSON that people read, without the secrets of the environment."""
    return masked_log(_json(content), os.environ)


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=2, default=plain).encode() + b"\n"


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, readable by its owner alone; raises OSError."""
    descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(fresh).replace(file)
    except OSError:
        Path(fresh).unlink(missing_ok=True)
        raise


def write_secret(file: Path, secret: str) -> None:
    """Write a new file for its owner alone, whatever the umask; raises OSError, also for anything that is there."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secret)


def read_private(file: Path) -> str | None:
    """The text of a file of our own that nobody else can read; None where there is none; raises OSError for another."""
    # NFS clients remember for up to a minute that a name was not there, unless the directory is opened again.
    with contextlib.suppress(OSError):
        os.close(os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY))
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as stream:
        if problem := ownership.not_ours_alone(os.fstat(descriptor)):
            raise PermissionError(errno.EPERM, problem)
        found = os.fstat(descriptor)
        check_kind(file, found.st_mode)
        if found.st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another account")
        if found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, f"others may use it (mode {found.st_mode & 0o777:03o})")
        return stream.read(LIMIT)


def plain(value: Any) -> Any:
    """What JSON makes of our own data types."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class EventLog:
    """events.jsonl: one line an event, appended at once, so that a killed run still tells its story.

    lost: events that could not be written, as on a file system that has become full: the run goes on without them.
    """

    def __init__(self, directory: Path) -> None:
        self.lost = 0
        self._file = os.fdopen(_private(directory / paths.EVENTS, os.O_APPEND), "ab", buffering=0)

    def write(self, stage: str, rank: int, host: str, at: float | None = None, **details: Any) -> None:
        """Append one event; at is Unix seconds, now if not given."""
        entry = {"at": round(time.time() if at is None else at, 4), "stage": stage, "rank": rank, "host": host}
        try:
            line = json.dumps({**entry, **details}, default=plain).encode() + b"\n"
            self._file.write(masked_log(line, os.environ))
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def tails(directory: Path, limit: int) -> tuple[tuple[str, bytes], ...]:
    """(name, content) of the files below a directory, together at most `limit` bytes: of large files the ends.

    Small files are kept whole: each file may use an equal part of what the smaller ones left over.
    """
    files = sorted(
        (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()),
        key=lambda path: path.stat().st_size,
    )
    kept = []
    for place, path in enumerate(files):
        share = limit // (len(files) - place)
        content = _end_of(path, share)
        limit -= len(content)
        kept.append((str(path.relative_to(directory)), content))
    return tuple(kept)


def _end_of(path: Path, share: int) -> bytes:
    """The last bytes of a file; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, io.SEEK_END) - share))
            return file.read(share)
    except OSError:
        return b""


def archive(file: Path, logs: Mapping[str, tuple[tuple[str, bytes], ...]]) -> None:
    """Write one tar.gz of all nodes' logs, without the user's secrets, a folder a node; an existing one is replaced."""
    import tarfile  # at the end of a run alone

    fresh = file.with_name(f".{file.name}")
    now = time.time()
    descriptor = _private(fresh, os.O_TRUNC)
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for node, entries in logs.items():
            for name, written in entries:
                content = masked_log(written, os.environ)
                info = tarfile.TarInfo(f"{node}/{name}")
                info.size, info.mtime, info.mode = len(content), int(now), 0o600
                tar.addfile(info, io.BytesIO(content))
    fresh.replace(file)


def _private(file: Path, how: int) -> int:
    """Open a file for writing that only its owner may read, whatever the umask."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | how, 0o600)


def last_lines(file: Path, count: int = 10) -> tuple[str, ...]:
    """The last lines of a text file that are not empty; nothing if it cannot be read."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(max(0, size - 16384))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-count:]
