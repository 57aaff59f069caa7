"""What every rendezvous without MPI reads: numbers from the environment, this host's addresses, the limit of ranks."""

from __future__ import annotations

import resource
import socket
from collections.abc import Mapping

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.host import network, this_host

# Rank 0 has a connection to each rank. More than 1,000 were not tried.
_LARGEST = 1024
# What rank 0 opens besides: its children, the listener, files.
_OTHER_FILES = 64
# A launcher's ranks connect within moments of each other: nobody needs to hear of less than this.
QUIET_SECONDS = 5.0
LAUNCHER_STEP = "look at the launcher's output for a rank that ended, or hangs at its start"


def numbers(environ: Mapping[str, str], names: tuple[str, ...], way: str, step: str) -> list[int]:
    """The values of variables that must be numbers; raises RayhpcError naming those that are not."""
    values = [environ.get(name, "") for name in names]
    wrong = [name for name, value in zip(names, values, strict=True) if not (value.isascii() and value.isdigit())]
    if wrong:
        lines = [f"{name}={environ[name]}" if name in environ else f"{name} is not set" for name in wrong]
        raise configuration(f"--rendezvous={way}, but this process does not know its rank", *lines, next_step=step)
    return [int(value) for value in values]


def check_size(size: int) -> None:
    """Raises RayhpcError for more ranks than rank 0 can have connections."""
    if size > _LARGEST:
        raise configuration(
            f"{size} ranks are too many without MPI: rank 0 has a connection to each, {_LARGEST} at most",
            next_step="start them by mpirun, or by srun --mpi=pmi2; or fewer of them, one for each host",
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if size + _OTHER_FILES > files:
        raise configuration(
            f"{size} ranks need a connection each, and this process may open {files} files",
            next_step=f"raise it where the job starts: ulimit -n {size + 4096}; or start the ranks by mpirun",
        )


def addresses(interface: str) -> list[str]:
    """Where other hosts may reach this one; on a host without a network, itself alone."""
    # A wrong --interface is an error that all ranks report, once they are connected.
    found = this_host.interfaces(interface) or this_host.interfaces()
    return [entry.address for entry in found] or ["127.0.0.1"]


def host_and_port(text: str, port: int) -> tuple[str, int]:
    """Host and port of 'HOST:PORT', or of 'HOST' with the port given beside it; raises RayhpcError without a port.

    An IPv6 address stands in brackets before its port.
    """
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in name and not name.endswith("]")):
        name, number = text, str(port or "")
    name = name.removeprefix("[").removesuffix("]")
    if not (name and number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        what = f"{text!r} names no host and port" if text else "the head's host and port are not given"
        step = "HOST:PORT, as `rayhpc node head` prints it: --head, or RAYHPC_HEAD; or RAY_HEAD_IP and RAY_HEAD_PORT"
        raise RayhpcError(Fault(what, ExitCode.USAGE, next_step=step))
    return name, int(number)


def resolved(host: str) -> list[str]:
    """The addresses of a name or an address; raises RayhpcError with exit code 2 where nobody knows it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        step = "correct it: --head, RAYHPC_HEAD or RAY_HEAD_IP"
        raise RayhpcError(Fault(f"the head {host!r} is unknown here: {why}", ExitCode.USAGE, next_step=step)) from error
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))


def own_address(host: str) -> str:
    """The address of this host that a head is told to have; empty if any will do; raises RayhpcError (2) for another's.

    A host's own name may stand for an address that no interface has (Debian: 127.0.1.1).
    """
    found = resolved(host)
    if not network.is_here(host):
        own = [f"{entry.name} {entry.address}" for entry in this_host.interfaces("*")]
        what = f"the head shall be at {host}, which is no address of {this_host.name()}"
        step = "start the head there, or correct RAY_HEAD_IP; --interface on the command line says the network instead"
        raise RayhpcError(Fault(what, ExitCode.USAGE, evidence=tuple(own), next_step=step))
    return next((address for address in found if this_host.interface_of(address)), "")
