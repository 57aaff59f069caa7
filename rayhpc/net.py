"""Sockets: free ports, and which of the head's addresses a worker reaches."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import closing

from rayhpc.errors import configuration
from rayhpc.model import Probe, Reach

# Below the ephemeral ports of Linux (32768-60999), which outgoing connections take at any time.
_PORTS = range(20000, 32768)
_CONNECT_SECONDS = 5.0


class Listener:
    """The socket behind a Probe: accepts and forgets; closes with the agreement."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0), backlog=4096, dualstack_ipv6=False)
        self.port = int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def free_port(host: str, wanted: int = 0, taken: frozenset[int] = frozenset()) -> int:
    """A TCP port that can be bound on all of this host's addresses; raises RayhpcError if the wanted one cannot."""
    candidates = [wanted] if wanted else random.SystemRandom().sample(_PORTS, 200)
    for port in candidates:
        if port not in taken and _bindable(port):
            return port
    raise configuration(
        f"port {wanted} is in use on {host}" if wanted else f"no free port on {host}",
        next_step="choose another --port, or none: rayhpc finds a free one",
    )


def _bindable(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        try:
            trial.bind(("", port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def reach(rank: int, place: str, probe: Probe) -> Reach:
    """Try a TCP connection to each of the head's addresses; never raises: rank 0 judges."""
    own, refusals = {}, []
    for address in probe.addresses:
        try:
            with closing(socket.create_connection((address, probe.port), _CONNECT_SECONDS)) as connection:
                own[address] = str(connection.getsockname()[0])
        except OSError as error:
            refusals.append(f"{address}: {error.strerror or error}")
    return Reach(rank, place, own, tuple(refusals))
