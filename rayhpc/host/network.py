"""Sockets: free ports, and which of the head's addresses a worker reaches."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import threading
from contextlib import closing
from enum import Enum
from typing import Any

from rayhpc.errors import configuration
from rayhpc.model import Probe, Reach

# Below the ephemeral ports of Linux (32768-60999), which outgoing connections take at any time.
_PORTS = range(20000, 32768)
_CONNECT_SECONDS = 5.0


class Knock(Enum):
    """What a TCP port said."""

    OPEN = "it answers"
    REFUSED = "it is closed"
    SILENT = "nobody answers"


class Listener:
    """The socket behind a Probe: a thread accepts and forgets, since the kernel queues 128 at most; until close()."""

    def __init__(self) -> None:
        self._closed = False
        self._socket = server()
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            with contextlib.suppress(OSError):  # a connection that has gone again; or close(), which ends the wait
                self._socket.accept()[0].close()

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def server(port: int = 0) -> socket.socket:
    """A listening socket on all addresses, IPv6 included where this host has it; 0: a free port; raises OSError."""
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=4096)


def is_here(host: str) -> bool:
    """True if a name or an address is this host's own; raises RayhpcError for a name that nobody knows."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise configuration(f"{host} is unknown here: {error.strerror}", next_step="correct the name") from error
    return any(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: tuple[Any, ...]) -> bool:
    """Only an address of this host can be bound."""
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as trial:
            trial.bind(address)
    except OSError:
        return False
    return True


def free_port(host: str, wanted: int = 0, taken: frozenset[int] = frozenset()) -> int:
    """A TCP port that can be bound on all of this host's addresses; raises RayhpcError if the wanted one cannot."""
    candidates = [wanted] if wanted else random.SystemRandom().sample(_PORTS, 200)
    problem = ""
    for port in candidates:
        problem = "is in use" if port in taken else _problem(port)
        if not problem:
            return port
    raise configuration(
        f"port {wanted} {problem} on {host}" if wanted else f"no free port on {host}",
        next_step="choose another --port, or none: rayhpc finds a free one",
    )


def _problem(port: int) -> str:
    """Why a port cannot be bound; empty if it can."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        try:
            trial.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "is in use"
            if error.errno == errno.EACCES:  # below 1024
                return "is for root alone"
            raise
    return ""


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


def knock(address: str, seconds: float) -> Knock:
    """What HOST:PORT says to a TCP connection; never raises. Takes up to so many seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except ConnectionRefusedError:
        return Knock.REFUSED
    except (OSError, ValueError):
        return Knock.SILENT
    return Knock.OPEN
