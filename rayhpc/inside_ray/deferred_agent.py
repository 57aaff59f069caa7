"""A server of Ray that imports Ray later: PROGRAM ARGUMENTS..., the command that Ray would have run.

It listens in the program's place, and becomes the program; callers wait meanwhile, and none is lost. The
runtime-environment agent starts with its first caller: few drivers have a runtime environment, and the agent costs each
node an import of Ray. The dashboard starts at once. A program that is run by its path: standard library only.
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
    """True once somebody connects; False when the raylet, our parent, has ended."""
    while os.getppid() == raylet:
        if select.select([listener], [], [], _LOOK_SECONDS)[0]:
            return True
    return False


def hand_over(listener: socket.socket) -> None:
    """Make the next socket that is bound to the listener's address the listener itself, with all who wait there."""
    ours, bind = listener.getsockname(), socket.socket.bind

    def take_over(self: socket.socket, address: tuple[object, ...]) -> None:
        if tuple(address[:2]) != tuple(ours[:2]):
            bind(self, address)
            return
        os.dup2(listener.fileno(), self.fileno(), inheritable=False)
        listener.close()
        socket.socket.bind = bind  # type: ignore[method-assign]

    socket.socket.bind = take_over  # type: ignore[method-assign,assignment]


def replace_search_path(program: str) -> None:
    """Import from the program's own directory in the place of ours, whose modules have ordinary names."""
    ours = os.path.dirname(__file__)  # noqa: PTH120 - as Python writes it
    sys.path[:] = [os.path.dirname(program) if entry == ours else entry for entry in sys.path]  # noqa: PTH120


def become(arguments: list[str], listener: socket.socket) -> None:
    """Run the program in this process; it gets the listener when it binds its port."""
    hand_over(listener)
    sys.argv = arguments
    replace_search_path(arguments[0])
    runpy.run_path(arguments[0], run_name="__main__")


def main(arguments: list[str]) -> None:
    """Listen, wait where that is wanted, and become the program; nothing once the raylet is gone."""
    options = dict(word.split("=", 1) for word in arguments if "=" in word)
    if "--runtime-env-agent-port" not in options:
        # The dashboard's own processes begin with `python -c`, which imports from the working directory, the user's.
        os.chdir("/")
        become(arguments, listen(options["--host"], int(options["--port"])))
        return
    listener = listen(options["--node-ip-address"], int(options["--runtime-env-agent-port"]))
    if wait_for_caller(listener, int(os.environ["RAY_RAYLET_PID"])):
        become(arguments, listener)


if __name__ == "__main__":
    main(sys.argv[1:])
