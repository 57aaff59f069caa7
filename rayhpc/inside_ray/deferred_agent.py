"""Ray's runtime-environment agent, begun by its first caller: MAIN ARGUMENTS..., the command that Ray would have run.

Few drivers have a runtime environment, and the agent costs each node an import of Ray. A program of its own, standard
library only: it listens in the agent's place, and becomes the agent once somebody connects, who waits for the answer.
"""

from __future__ import annotations

import os
import runpy
import select
import socket
import sys

_LOOK_SECONDS = 1.0


def listen(address: str, port: int) -> socket.socket:
    """The agent's socket as the agent makes it; raises OSError where somebody else listens."""
    family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(where)
    listener.listen(128)
    return listener


def wait_for_caller(listener: socket.socket, raylet: int) -> bool:
    """True once somebody connects; False when the raylet has ended."""
    while os.getppid() == raylet:
        if select.select([listener], [], [], _LOOK_SECONDS)[0]:
            return True
    return False


def hand_over(listener: socket.socket) -> None:
    """Let the socket that is next bound to the listener's address be the listener, with all who wait there."""
    ours, bind = listener.getsockname(), socket.socket.bind

    def take(self: socket.socket, address: tuple[object, ...]) -> None:
        if tuple(address[:2]) != tuple(ours[:2]):
            bind(self, address)
            return
        os.dup2(listener.fileno(), self.fileno(), inheritable=False)
        listener.close()
        socket.socket.bind = bind  # type: ignore[method-assign]

    socket.socket.bind = take  # type: ignore[method-assign,assignment]


def look_where_it_would(program: str) -> None:
    """Import from the program's own directory in the place of ours, whose modules have ordinary names."""
    ours = os.path.dirname(__file__)  # noqa: PTH120 - as Python writes it
    sys.path[:] = [os.path.dirname(program) if entry == ours else entry for entry in sys.path]  # noqa: PTH120


def main(arguments: list[str]) -> None:
    """Wait, then be the agent; nothing once the raylet is gone."""
    said = dict(word.split("=", 1) for word in arguments if "=" in word)
    listener = listen(said["--node-ip-address"], int(said["--runtime-env-agent-port"]))
    if wait_for_caller(listener, int(os.environ["RAY_RAYLET_PID"])):
        hand_over(listener)
        sys.argv = arguments
        look_where_it_would(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
