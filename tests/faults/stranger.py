"""What somebody without the token tries, a program of its own: python stranger.py < ORDER.json > FOUND.json.

order: ports ([[address, port], …]), methods (gRPC, as "/ray.rpc.X/Y"), token ("" for none), pages (HTTP, as
"/metrics"), paths. found: {"calls": {"address:port": {method: answer}}, "pages": …, "opened": {path: [what]}}.
Standard library only: the account may have nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

_SECONDS = 3.0
# Answered by every gRPC server of Ray, without a token too.
_HEALTH = "/grpc.health.v1.Health/Check"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def call(address: str, port: int, method: str, token: str) -> str:
    """The grpc-status of one call with an empty message: '0' is success, '16' UNAUTHENTICATED; else what happened.

    HTTP/2 by hand, a connection a call: the environment of the tests has no gRPC for Python.
    """
    headers = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": f"{address}:{port}", "te": "trailers",
        "content-type": "application/grpc", **({"authorization": f"Bearer {token}"} if token else {}),
    }  # fmt: skip
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    request = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, block)
        + _frame(_DATA, _END_STREAM, 1, b"\0\0\0\0\0")
    )
    try:
        with socket.create_connection((address, port), _SECONDS) as connection:
            connection.sendall(request)
            return _status(connection)
    except TimeoutError:
        return "silent"
    except OSError as error:
        return f"closed: {error.strerror}"


def tried(address: str, port: int, methods: list[str], token: str) -> dict[str, str]:
    """The answers to all methods; to the first one only where it is not gRPC that answers."""
    answers: dict[str, str] = {}
    for method in [_HEALTH, *methods] if methods else []:
        answers[method] = call(address, port, method, token)
        if not answers[_HEALTH].isdigit():
            break
    return answers


def _status(connection: socket.socket) -> str:
    end = time.monotonic() + _SECONDS  # a stream that was let in stays open and sends pings
    while time.monotonic() < end:
        head = _exactly(connection, 9)
        if head is None:
            return "closed"
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if size > 2**20:
            return "no HTTP/2"
        body = _exactly(connection, size) or b""
        # The server has just met this connection: its header compression refers to nothing and spells the name out.
        if kind == _HEADERS and (found := re.search(rb"grpc-status.(\d+)", body, re.DOTALL)):
            return found.group(1).decode()
        if kind in (_RESET, _GOAWAY):
            return "reset"
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            connection.sendall(_frame(kind, _ACK, 0, body if kind == _PING else b""))
    return "open"


def _text(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127
    return bytes([len(raw)]) + raw


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def page(address: str, port: int, path: str) -> str:
    """The HTTP status of a GET, '200' or '401'; else what happened."""
    request = f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection((address, port), _SECONDS) as connection:
            connection.sendall(request)
            answer = connection.recv(64)
    except TimeoutError:
        return "silent"
    except OSError as error:
        return f"closed: {error.strerror}"
    found = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return found.group(1).decode() if found else "no HTTP" if answer else "closed"


def opened(path: str) -> list[str]:
    """What this account may do with a path: read, write, create in it, remove, lead another one to its name."""
    done = []
    trials = {
        "read": lambda: os.listdir(path) if Path(path).is_dir() else Path(path).read_bytes(),
        "write": lambda: os.close(os.open(path, os.O_WRONLY)),
        "create": lambda: os.close(os.open(f"{path}/stranger", os.O_WRONLY | os.O_CREAT)),
        "rename": lambda: os.rename(path, f"{path}-stranger"),  # noqa: PTH104
    }
    for name, trial in trials.items():
        with contextlib.suppress(OSError):
            trial()
            done.append(name)
    return done


def main() -> None:
    """Try all that the order names."""
    order: dict[str, Any] = json.load(sys.stdin)
    calls: dict[str, dict[str, str]] = {}
    pages: dict[str, dict[str, str]] = {}
    for address, port in order.get("ports", []):
        name = f"{address}:{port}"
        calls[name] = tried(address, port, order.get("methods", []), order.get("token", ""))
        pages[name] = {p: page(address, port, p) for p in order.get("pages", [])}
    may = {path: done for path in order.get("paths", []) if (done := opened(path))}
    json.dump({"uid": os.getuid(), "calls": calls, "pages": pages, "opened": may}, sys.stdout)


if __name__ == "__main__":
    main()
