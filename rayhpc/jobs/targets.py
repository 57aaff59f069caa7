"""Which clusters are meant: the registered ones, one of them, a colleague's by its address, those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration, shortened
from rayhpc.jobs import address_file
from rayhpc.jobs.address_file import Address
from rayhpc.jobs.ray_api import Server
from rayhpc.model import KUBERAY, ClusterEntry
from rayhpc.records import registry
from rayhpc.user_input import files

_START = "start one that has it: mpirun -np 4 python -m rayhpc.start --hold --dashboard"


FILE = "~/.ray_address"
VARIABLE = "RAYHPC_ADDRESS"


@dataclass(frozen=True)
class Choice:
    """What the user says of the cluster: at most one of the first three; token_file: for addresses.

    source: where that was said, empty if nowhere.
    """

    cluster: str = ""
    address: str = ""
    address_file: str = ""
    token_file: str = ""
    source: str = ""


@dataclass(frozen=True)
class Meant:
    """The clusters that are meant, in the order of their list, and on whose word: an option, a variable, a file."""

    servers: tuple[Server, ...]
    source: str = ""


def servers(choice: Choice) -> list[Server]:
    """The clusters that are meant, in the order of their list; raises RayhpcError where there is none."""
    return list(meant(choice).servers)


def meant(choice: Choice) -> Meant:
    """What the command line says, else the registry, else ~/.ray_address; raises RayhpcError where there is none."""
    if bool(choice.cluster) + bool(choice.address) + bool(choice.address_file) > 1:
        raise RayhpcError(
            Fault("--cluster, --address and --address-file say the same thing", ExitCode.USAGE, next_step="give one")
        )
    if choice.cluster:
        return Meant((with_job_api(registry.find(choice.cluster)),), choice.source or "--cluster")
    if choice.address:
        source = choice.source or "--address"
        return Meant((resolve(choice.address, source, token_file=choice.token_file),), source)
    if choice.address_file:
        return _of_file(choice.address_file, choice.token_file)
    file = default_file()
    if file and not any(entry.dashboard for entry in registry.every()):
        return _of_file(file, choice.token_file)
    return Meant(tuple(registered()))


def _of_file(file: str, token_file: str) -> Meant:
    found = [resolve(each.said, file, each.name, token_file) for each in read(file)]
    return Meant(tuple(found), file)


def default_file() -> str:
    """~/.ray_address, empty if there is none, or nothing is in it."""
    try:
        file = Path(FILE).expanduser()
    except RuntimeError:  # no home
        return ""
    return str(file) if file.exists() and file.stat().st_size else ""


def resolve(word: str, source: str, name: str = "", token_file: str = "") -> Server:
    """The cluster meant by an address of its GCS or dashboard, or by a name; raises RayhpcError for what is neither.

    One that is registered is reached as the registry says, with its token. name: as a file has it, for an address that
    is not registered any more.
    """
    known = registry.matching(word) or (registry.matching(name) if name else [])
    if known:
        entry = known[0] if len(known) == 1 else registry.find(word)
        server = with_job_api(entry)
        return replace(server, token_file=Path(token_file)) if token_file else server
    url = address_file.address(word, source).url
    return Server(name or word.rstrip("/"), url, Path(token_file) if token_file else None)


def read(file: str) -> tuple[Address, ...]:
    """The addresses in a file; raises RayhpcError."""
    try:
        return address_file.parse(files.read_text(Path(file).expanduser()), file)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise configuration(
            f"the address file {file} cannot be read: {why}",
            next_step="name one whose lines are http://HOST:PORT",
        ) from error


def write(file: str, entries: Sequence[ClusterEntry]) -> int:
    """Write the addresses of clusters that take jobs into a file; how many these are. Raises RayhpcError."""
    addresses = [Address(entry.dashboard, entry.id) for entry in entries if entry.dashboard]
    return address_file.save(Path(file).expanduser(), addresses)


def registered() -> list[Server]:
    """The registered clusters that take jobs, the oldest first; raises RayhpcError where there is none."""
    known = registry.every() or [registry.find("")]
    found = [_server(entry) for entry in known if entry.dashboard]
    if not found:
        raise configuration(
            "no registered cluster takes jobs: they run without --dashboard",
            f"registered: {shortened([entry.id for entry in known])}",
            next_step=_START,
        )
    return found


def with_job_api(entry: ClusterEntry) -> Server:
    """The job API of a registered cluster; raises RayhpcError where it has none."""
    if not entry.dashboard:
        raise configuration(
            f"cluster {entry.id} takes no jobs: it runs without --dashboard",
            f"it runs on {entry.host}, from {entry.run_dir}",
            next_step=f"{_START}; this one takes drivers: rayhpc cluster attach {entry.id}",
        )
    return _server(entry)


def _server(entry: ClusterEntry) -> Server:
    # The GCS of a cluster on Kubernetes is for its pods alone: that nobody answers from here says nothing.
    forwarded = entry.scheduler == KUBERAY
    gcs = "" if forwarded else entry.address
    return Server(entry.id, entry.dashboard, registry.token_file(entry), gcs, forwarded)
