"""All processes know one address: the one that can listen there is rank 0, the others connect to it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping

from rayhpc.host import network, this_host
from rayhpc.ranks.comm import Comm, SoloComm
from rayhpc.ranks.handshake import Hello, Tell, Wait, gather, join
from rayhpc.ranks.rendezvous import inputs, secret_file
from rayhpc.ranks.rendezvous.inputs import LAUNCHER_STEP, QUIET_SECONDS


def meet(environ: Mapping[str, str], patience: Callable[[int], float], tell: Tell) -> Comm:
    """Rank 0 is the process that can listen at RAYHPC_HEAD; raises RayhpcError where the ranks do not meet."""
    step = "set RAYHPC_SIZE to the number of processes, and RAYHPC_HEAD=HOST:PORT on all of them"
    (size,) = inputs.numbers(environ, ("RAYHPC_SIZE",), "tcp", step)
    head = inputs.host_and_port(environ.get("RAYHPC_HEAD", ""), 0)
    inputs.check_size(size)
    named = environ.get("RAYHPC_TOKEN_FILE", "")
    file = secret_file.token_file(named, head[1], environ)
    wait = Wait(patience(size), tell, this_host.name(), LAUNCHER_STEP, QUIET_SECONDS)
    listener = _listener(head)
    if listener is None:
        return join(lambda: secret_file.endpoint(head, file), Hello(None, this_host.name()), wait)[0]
    with secret_file.secret(file, bool(named)) as secret:
        return gather(listener, secret, size, None, wait) if size > 1 else SoloComm()


def _listener(head: tuple[str, int]) -> socket.socket | None:
    """A socket that listens at the head's address; None on another host, and where another process has the port."""
    if not network.is_here(head[0]):
        return None
    try:
        return network.server(head[1])
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise secret_file.no_listener(head[1], error) from error
    return None
