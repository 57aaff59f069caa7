"""Which clusters are meant: the registered ones, one of them, a colleague's by its address, those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration, shortened
from rayhpc.jobs import address_file
from rayhpc.jobs.address_file import Address
from rayhpc.jobs.ray_api import Server
from rayhpc.model import KUBERAY, ClusterEntry
from rayhpc.records import registry
from rayhpc.user_input import files

_START = "start one that has it: mpirun -np 4 python -m rayhpc.start --hold --dashboard"


@dataclass(frozen=True)
class Choice:
    """What the user says of the cluster: at most one of the first three; token_file: for addresses."""

    cluster: str = ""
    address: str = ""
    address_file: str = ""
    token_file: str = ""


def servers(choice: Choice) -> list[Server]:
    """The clusters that are meant, in the order of their list; raises RayhpcError where there is none."""
    if bool(choice.cluster) + bool(choice.address) + bool(choice.address_file) > 1:
        raise RayhpcError(
            Fault("--cluster, --address and --address-file say the same thing", ExitCode.USAGE, next_step="give one")
        )
    if choice.cluster:
        return [with_job_api(registry.find(choice.cluster))]
    if choice.address:
        return [_at(Address(address_file.parse(choice.address, "--address")[0].url), choice.token_file)]
    if choice.address_file:
        return [_at(address, choice.token_file) for address in read(choice.address_file)]
    return registered()


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
    gcs = "" if entry.scheduler == KUBERAY else entry.address
    return Server(entry.id, entry.dashboard, registry.token_file(entry), gcs)


def _at(address: Address, token_file: str) -> Server:
    """The cluster at an address, with the token of the file, else of the registered cluster that is there."""
    if token_file:
        return Server(address.name or address.url, address.url, Path(token_file))
    for entry in registry.every():
        if entry.dashboard == address.url:
            return _server(entry)
    raise configuration(
        f"the token of the cluster at {address.url} is not known: it is none of the registered ones",
        next_step="ask who runs it for a file with its token that you may read: --token-file FILE",
    )
