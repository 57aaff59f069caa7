"""`rayhpc node`: ranks that users start one by one, from terminals."""

from __future__ import annotations

from collections.abc import Mapping

from rayhpc.errors import configuration
from rayhpc.host import network, this_host
from rayhpc.options import Options, Terminals
from rayhpc.ranks.comm import Comm, SoloComm
from rayhpc.ranks.handshake import Hello, Tell, Wait, gather, join
from rayhpc.ranks.rendezvous import inputs, secret_file
from rayhpc.ranks.tcp import TcpComm


def lead(terminals: Terminals, options: Options, seconds: float, environ: Mapping[str, str], tell: Tell) -> Comm:
    """`rayhpc node head`: wait for the workers, which get the options; raises RayhpcError at the deadline.

    terminals.head: the address of this host by which they come; empty: the first of its interfaces.
    """
    if terminals.nodes == 1:
        return SoloComm()
    inputs.check_size(terminals.nodes)
    try:
        listener = network.server(terminals.port)
    except OSError as error:
        raise secret_file.no_listener(terminals.port, error) from error
    port = listener.getsockname()[1]
    file = secret_file.token_file(terminals.token_file, port, environ)
    address = terminals.head or inputs.addresses(options.interface)[0]
    command = f"rayhpc node worker --head {_shown(address, port)}"
    if file != secret_file.token_file("", port, {name: environ[name] for name in ("HOME",) if name in environ}):
        command += f" --token-file {file}"
    others = "the other terminal" if terminals.nodes == 2 else f"{terminals.nodes - 1} other terminals"
    wait = Wait(seconds, tell, f"rank 0 on {this_host.name()}", f"in {others}: {command}")
    with secret_file.secret(file, bool(terminals.token_file)) as secret:
        return gather(listener, secret, terminals.nodes, options, wait)


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def join_head(
    terminals: Terminals, seconds: float, environ: Mapping[str, str], tell: Tell
) -> tuple[TcpComm, Options]:
    """`rayhpc node worker`: connect to the head; with its options; raises RayhpcError at the deadline."""
    head = inputs.host_and_port(terminals.head, terminals.port)
    inputs.resolved(head[0])
    file = secret_file.token_file(terminals.token_file, head[1], environ)
    command = f"rayhpc node head --port {head[1]}" + (f" --token-file {file}" if terminals.token_file else "")
    wait = Wait(seconds, tell, this_host.name(), f"on {head[0]}: {command} -- DRIVER")
    comm, options = join(lambda: secret_file.endpoint(head, file), Hello(None, this_host.name()), wait)
    if options is None:
        raise configuration(
            f"rank 0 at {head[0]}:{head[1]} was not started by `rayhpc node head`",
            next_step="start this rank as rank 0 was: --rendezvous=tcp, or --rendezvous=file",
        )
    return comm, options
