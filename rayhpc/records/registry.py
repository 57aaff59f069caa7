"""The registry: the clusters that run, a private directory each, on the file system that login and compute share.

Each entry has one writer, its own run, which waits for no lock. What commands of the login side change, they change
under one: a line in the file that asks for the end, entries that are gone, those of clusters on Kubernetes. A run that
is killed with its host leaves its entry, so an entry is no proof of life (rayhpc.clusters.liveness).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pwd
import shutil
import stat
import time
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.errors import RayhpcError, configuration, shortened
from rayhpc.host import ownership
from rayhpc.model import KUBERAY, Certificate, ClusterEntry
from rayhpc.processes import environment
from rayhpc.records import lock, run_directory
from rayhpc.records.ids import select
from rayhpc.records.token import write_authentication
from rayhpc.schedulers.facts import job_of, short

_FOLDER = "clusters"
_RECORD = "cluster.json"
_HEARTBEAT = "heartbeat"
_STOP = "stop"
# A file that is made while its directory is removed costs another look.
_REMOVALS = 3
_TYPES: dict[Any, type | tuple[type, ...]] = {str: str, int: int, bool: bool, float: (int, float)}


def folder() -> Path:
    """Where the entries are; raises RayhpcError where the user has no home and names no other place."""
    try:
        return paths.state_dir(os.environ) / _FOLDER
    except RuntimeError as error:
        raise configuration(
            f"there is no place for the registry of clusters: {error}",
            next_step="name a directory on a file system that login and compute hosts share: RAYHPC_STATE_DIR",
        ) from error


def directory(cluster_id: str) -> Path:
    """The directory of an entry: what a run must leave behind without."""
    return folder() / cluster_id


def account() -> str:
    """The name of the account that we run as; its number where the table of users does not have it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def token_file(entry: ClusterEntry) -> Path:
    """The cluster's token, mode 0600."""
    return Path(paths.token_file(str(directory(entry.id))))


def authentication(entry: ClusterEntry) -> dict[str, str]:
    """What lets a process that reads the registry into the cluster: the paths of the secrets, never their content."""
    return environment.authentication(str(directory(entry.id)), entry.tls)


# ------------------------------------------------------------------------------------------------- the compute side


def add(entry: ClusterEntry, token: str, certificate: Certificate | None = None) -> None:
    """Make the entry of a run, visible once it is whole; raises RayhpcError, leaving nothing, where it cannot be."""
    own = directory(entry.id)
    try:
        run_directory.make_private(own.parent, exist_ok=True)
        _check_owner(own.parent)
        own.mkdir(mode=0o700)
    except OSError as error:
        raise _unusable(own.parent, error) from error
    try:
        write_authentication(str(own), token, certificate)
        for name in (_HEARTBEAT, _STOP):
            run_directory.write_secret(own / name, "")
        run_directory.write_json(own / _RECORD, entry)
    except OSError as error:
        forget(entry)
        raise _unusable(own.parent, error) from error


def amend(entry: ClusterEntry) -> None:
    """Write what has changed of an entry; raises OSError, FileNotFoundError where the entry was forgotten."""
    run_directory.write_json(directory(entry.id) / _RECORD, entry)


def _check_owner(place: Path) -> None:
    """Raises OSError where somebody else could read what is put there, or put something of his own in its place."""
    if not stat.S_ISDIR(place.lstat().st_mode):
        raise NotADirectoryError(0, "it is a link, or no directory", str(place))
    with contextlib.suppress(PermissionError):  # another account's, which is said next
        place.chmod(0o700)
    if problem := ownership.not_ours_alone(place.lstat()) or ownership.ruled_by_others(place.parent):
        raise PermissionError(0, problem, str(place))


def _unusable(place: Path, error: OSError) -> RayhpcError:
    return configuration(
        f"the registry of clusters {place} cannot be used: {error.strerror}",
        *([str(error.filename)] if error.filename and str(error.filename) != str(place) else []),
        next_step="name another directory with RAYHPC_STATE_DIR, or do without: --no-register",
    )


def beat(entry: ClusterEntry) -> None:
    """Say that the run is there; raises OSError, FileNotFoundError where the entry was forgotten."""
    os.utime(directory(entry.id) / _HEARTBEAT)


def stops(entry: ClusterEntry) -> tuple[str, ...]:
    """Who has asked for the end of the run, one line a request; raises OSError.

    NFS looks for news of a file when it is opened, and may know nothing of a new file in a directory for a minute: the
    file is there from the beginning.
    """
    return tuple((directory(entry.id) / _STOP).read_text(errors="replace").splitlines())


# --------------------------------------------------------------------------------------------------- the login side


def every() -> list[ClusterEntry]:
    """All entries, the oldest first; what cannot be read, or is not whole yet, is left out."""
    try:
        places = list(folder().iterdir())
    except OSError:
        return []
    found = [entry for place in places if (entry := _read(place)) is not None]
    return sorted(found, key=lambda entry: (entry.started_at, entry.id))


def _read(place: Path) -> ClusterEntry | None:
    try:
        content = json.loads((place / _RECORD).read_text())
        content = {"metrics": "", "guests": [], **content}  # of a run whose rayhpc had no --metrics, or no growth
        values = {name: _typed(content[name], hint) for name, hint in typing.get_type_hints(ClusterEntry).items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ClusterEntry(**values) if values["id"] == place.name else None


def _typed(value: Any, hint: Any) -> Any:
    """The value of a field as its type wants it; raises TypeError for another type's."""
    if hint in _TYPES:
        if not isinstance(value, _TYPES[hint]) or (isinstance(value, bool) and hint is not bool):
            raise TypeError(f"{value!r} is no {hint.__name__}")
        return value
    return tuple(_typed(word, str) for word in value)


def find(word: str) -> ClusterEntry:
    """The entry meant by an id, its beginning or end, the id of its job, or an address; without a word the newest.

    Raises RayhpcError, naming what there is, where there is none or where several are meant.
    """
    known = every()
    if not known:
        raise configuration(
            "no cluster is registered",
            f"looked in {folder()}",
            next_step="start one: mpirun -np 4 python -m rayhpc.start --hold; another place: RAYHPC_STATE_DIR",
        )
    meant = matching(word) if word else known[-1:]
    if len(meant) == 1:
        return meant[0]
    names = shortened([entry.id for entry in reversed(meant or known)])
    what = f"{len(meant)} clusters are meant by {word}" if meant else f"there is no cluster {word}"
    raise configuration(what, f"known: {names}", next_step="rayhpc cluster list")


def matching(word: str) -> list[ClusterEntry]:
    """The entries that a user may mean: by id, job, address (GCS or dashboard, with or without http://), part of an id.

    On Kubernetes the job is the cluster's name there.
    """
    return select(
        every(),
        lambda entry: entry.id == word,
        lambda entry: bool(entry.batch_job_id) and word in (entry.batch_job_id, short(entry.batch_job_id)),
        lambda entry: _is_at(entry, word),
        lambda entry: bool(entry.batch_job_id) and word == job_of(entry.batch_job_id),
        lambda entry: entry.id.startswith(word) or entry.id.endswith(word),
    )


def _is_at(entry: ClusterEntry, word: str) -> bool:
    """True for HOST:PORT of the GCS or the dashboard, or its URL; HOST may be the head's name."""
    place = word.rstrip("/").rpartition("://")[2]
    own = {entry.address, entry.dashboard.rpartition("://")[2]}
    host, _, port = place.rpartition(":")
    if entry.scheduler == KUBERAY:  # the head's host is no login node
        return bool(port) and place in own | {entry.address.partition(".")[0] + f":{entry.address.rpartition(':')[2]}"}
    names = {entry.host, entry.host.partition(".")[0]}
    return bool(port) and (place in own or (host in names and port in {each.rpartition(":")[2] for each in own}))


def exists(entry: ClusterEntry) -> bool:
    """True until the run has ended in order, or the entry was forgotten; raises RayhpcError where nobody can tell."""
    try:
        with (directory(entry.id) / _HEARTBEAT).open("rb"):
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(folder(), error) from error


def heartbeat_age(entry: ClusterEntry) -> float:
    """Seconds since the run last said that it is there, as far as the hosts' clocks agree; infinite without a file."""
    try:
        with (directory(entry.id) / _HEARTBEAT).open("rb") as file:
            return max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
    except OSError:
        return math.inf


def ask_to_stop(entry: ClusterEntry, who: str) -> None:
    """Ask a run to end, as a signal would; a second time hastens it. Raises OSError, FileNotFoundError once it has."""
    with changing():  # on NFS two that append at once overwrite each other's line
        descriptor = os.open(directory(entry.id) / _STOP, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "w") as file:
            file.write(who.replace("\n", " ") + "\n")


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """While a command of the login side changes entries; raises RayhpcError where another one hangs, and OSError."""
    run_directory.make_private(folder().parent, exist_ok=True)
    with lock.only_writer(folder()):
        yield


def forget_seen(entries: Sequence[ClusterEntry]) -> None:
    """Remove entries that were seen: one that another process has made anew meanwhile stays. Raises RayhpcError."""
    try:
        with changing():
            there = {(entry.id, entry.pid, entry.started_at) for entry in every()}
            for entry in entries:
                if (entry.id, entry.pid, entry.started_at) in there:
                    forget(entry)
    except OSError as error:
        raise _unusable(folder(), error) from error


def forget(entry: ClusterEntry) -> None:
    """Remove an entry; one that is not there is no fault. Raises RayhpcError if it stays."""
    own = directory(entry.id)
    for _ in range(_REMOVALS):
        with contextlib.suppress(OSError):
            shutil.rmtree(own)
        if not os.path.lexists(own):
            return
    raise configuration(f"{own} could not be removed", next_step=f"see why: ls -la {own}")
