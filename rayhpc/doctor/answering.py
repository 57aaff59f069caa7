"""The server by which other hosts measure the way to this one, and what they measure: reach, time, speed.

It gives nothing away but the time, and keeps nothing of what it is sent.
"""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import struct
import threading
import time
from dataclasses import dataclass

from rayhpc.host import network

# Where Ray's workers listen, where rayhpc puts the head, and what the kernel gives away (0).
_RANGES = (range(10002, 20000), range(20000, 32768), range(1))
_TRIES = 50
_TIME, _DATA = b"t", b"d"
_STAMP = struct.Struct("!d")
_BLOCK = 2**19
_BLOCKS = 8
_PIECE = 2**18
_IDLE_SECONDS = 5.0
CONNECT_SECONDS = 2.0
_ROUNDS = 5


class _Handler(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        """Answer `t` with the time, and `d` with the time once the whole block is there, until the other end closes."""
        self.request.settimeout(_IDLE_SECONDS)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # the other end has gone
            while wanted := self.request.recv(1):
                if wanted == _DATA:
                    _swallow(self.request)
                self.request.sendall(_STAMP.pack(time.time()))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("", port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = network.server(port)


class Answering:
    """Servers on three ports of this host, in three ranges that a firewall may treat differently; until close()."""

    def __init__(self) -> None:
        self._servers = [_on_a_port_of(ports) for ports in _RANGES]
        self.ports = tuple(int(server.socket.getsockname()[1]) for server in self._servers)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _on_a_port_of(ports: range) -> _Server:
    for port in random.SystemRandom().sample(ports, min(_TRIES, len(ports))):
        with contextlib.suppress(OSError):
            return _Server(port)
    return _Server(0)


def _swallow(connection: socket.socket) -> None:
    left = _BLOCK
    while left and (piece := connection.recv(min(left, _PIECE))):
        left -= len(piece)


@dataclass(frozen=True)
class Measured:
    """The way to another host: seconds there and back, bytes per second, and how far its clock is ahead of ours."""

    round_trip: float
    rate: float
    ahead: float


def connect(to: tuple[str, int]) -> str:
    """Try one connection; why it failed, empty if it did not."""
    try:
        socket.create_connection(to, CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def measure(address: str, port: int, speed: bool) -> Measured:
    """Measure the way to a host that answers, its speed only if wanted; raises OSError.

    The best of several tries counts: the others say how busy the processors are.
    """
    with contextlib.closing(socket.create_connection((address, port), CONNECT_SECONDS)) as connection:
        connection.settimeout(_IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        round_trip, ahead = min((_ask(connection) for _ in range(_ROUNDS)), key=lambda pair: pair[0])
        rate = max(_BLOCK / _seconds_of_a_block(connection) for _ in range(_BLOCKS)) if speed else 0.0
        return Measured(round_trip, rate, ahead)


def _ask(connection: socket.socket) -> tuple[float, float]:
    """Seconds there and back, and how far the other clock is ahead."""
    began, clock = time.monotonic(), time.time()
    connection.sendall(_TIME)
    theirs = _stamp(connection)
    seconds = time.monotonic() - began
    return seconds, theirs - (clock + seconds / 2)


def _seconds_of_a_block(connection: socket.socket) -> float:
    began = time.monotonic()
    connection.sendall(_DATA + bytes(_BLOCK))
    _stamp(connection)
    return time.monotonic() - began


def _stamp(connection: socket.socket) -> float:
    answer = b""
    while len(answer) < _STAMP.size:
        piece = connection.recv(_STAMP.size - len(answer))
        if not piece:
            raise ConnectionResetError("the other end has closed")
        answer += piece
    return float(_STAMP.unpack(answer)[0])
