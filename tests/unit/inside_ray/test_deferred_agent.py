"""The agent that begins when it is called: real processes and sockets, and a small program in the place of Ray's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rayhpc.host import network
from rayhpc.inside_ray import deferred_agent

# As Ray's agent makes its socket; it answers each caller with its arguments.
PROGRAM = """
import socket, sys
import beside
print('begun', flush=True)
said = dict(word.split('=', 1) for word in sys.argv[1:])
other = socket.socket(); other.bind(('127.0.0.1', 0))
family, kind, protocol, _, where = socket.getaddrinfo(
    said['--node-ip-address'], int(said['--runtime-env-agent-port']), type=socket.SOCK_STREAM)[0]
sock = socket.socket(family, kind, protocol)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(where)
sock.listen(128)
assert sock.getsockname()[1] != other.getsockname()[1]
while True:
    caller, _ = sock.accept()
    caller.sendall(caller.recv(99) + b' ' + sys.argv[2].encode() + b' ' + __name__.encode())
    caller.close()
"""
Start = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def starting(address: str = "127.0.0.1", raylet: int = os.getpid()) -> tuple[subprocess.Popen[str], int]:
        program = tmp_path / "main.py"
        program.write_text(PROGRAM)
        ours = str(Path(deferred_agent.__file__).parent)
        (tmp_path / "beside.py").write_text(f"import sys; assert {ours!r} not in sys.path, sys.path")
        port = network.free_port("")
        words = [f"--runtime-env-agent-port={port}", f"--node-ip-address={address}"]
        process = subprocess.Popen(
            [sys.executable, "-u", deferred_agent.__file__, str(program), *words],
            env={**os.environ, "RAY_RAYLET_PID": str(raylet)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return process, port

    return starting


def connected(address: str, port: int, process: subprocess.Popen[str]) -> socket.socket:
    """A caller, as soon as somebody listens."""
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        try:
            return socket.create_connection((address, port), 10)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise AssertionError(f"nobody listens; the agent's exit code: {process.returncode}")


def answer(caller: socket.socket) -> bytes:
    with closing(caller):
        caller.settimeout(30)
        caller.sendall(b"hello")
        return b"".join(iter(lambda: caller.recv(99), b""))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_callers_wake_it_and_are_answered(start: Start, address: str) -> None:
    """Also those that called before it could listen, and those that come later."""
    if address == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    process, port = start(address)
    with process:
        try:
            early = [connected(address, port, process) for _ in range(5)]
            expected = f"hello --node-ip-address={address} __main__".encode()
            assert [answer(caller) for caller in early] == [expected] * 5
            assert answer(connected(address, port, process)) == expected
        finally:
            process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == "begun\n"


def test_nobody_calls_and_it_does_not_begin(start: Start) -> None:
    process, _ = start(raylet=1)  # a raylet that has ended: its agents have another parent
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 0


def test_a_signal_ends_it_while_it_waits(start: Start) -> None:
    process, port = start()
    connected("127.0.0.1", port, process).close()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_a_port_that_somebody_listens_on(start: Start) -> None:
    """As with Ray's agent: it fails at once, and its raylet with it."""
    process, port = start()
    with process:
        connected("127.0.0.1", port, process).close()
        with pytest.raises(OSError, match="in use"):
            deferred_agent.listen("127.0.0.1", port)
        process.kill()
