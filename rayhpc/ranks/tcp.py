"""Ranks without MPI: every other rank has one TCP connection to rank 0, which only a peer with the secret can use.

Both ends begin with a greeting: a magic number and a nonce. Every message after it carries an HMAC, whose key is made
of the secret, both greetings, and the sender's role. Nothing is unpickled before its HMAC was verified.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import pickle
import secrets
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

from rayhpc.messages import Mail
from rayhpc.processes import polling

HEAD, WORKER = b"head", b"worker"
_MAGIC = b"rayhpc\x00\x01"
_NONCE_BYTES = 32
_GREETING_BYTES = len(_MAGIC) + _NONCE_BYTES
_LENGTH = struct.Struct("!Q")
_MAC_BYTES = 32
_CHUNK = 2**18
_CHUNKS = 16
# The largest message is a node's share of the logs, 64 MiB; a peer that is not proven yet gets less of our memory.
LARGEST = 2**30
LEAVE_SECONDS = 5.0
_ABORT_SECONDS = 1.0


@dataclass(frozen=True)
class _Abort:
    """End the process with this code: from any rank to all others."""

    code: int


class _Macs:
    """The HMACs of one direction: over a count as well, so that no message can be repeated, left out or moved."""

    def __init__(self, secret: bytes, role: bytes, greetings: bytes) -> None:
        self._key = hmac.digest(secret, role + b" " + greetings, "sha256")
        self._count = 0

    def next(self, payload: bytes) -> bytes:
        """The HMAC of the next message."""
        self._count += 1
        return hmac.digest(self._key, _LENGTH.pack(self._count) + payload, "sha256")


class Link:
    """One connection between two ranks that know the secret: whole messages, in order; send() and take() never block.

    lost: why it can no longer be used, empty while it can; greeted: the other end has sent the greeting;
    largest: bytes of the largest message that is taken in.
    """

    def __init__(self, connection: socket.socket, secret: bytes, role: bytes, largest: int = LARGEST) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lost = ""
        self.greeted = False
        self.largest = largest
        self._socket, self._secret, self._role = connection, secret, role
        self._greeting = _MAGIC + secrets.token_bytes(_NONCE_BYTES)
        self._out, self._in = bytearray(self._greeting), bytearray()
        self._early: list[bytes] = []
        self._sending: _Macs | None = None
        self._receiving: _Macs | None = None
        self.flush()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Queue a message and write what the socket takes now; to a lost end nothing is sent."""
        if self.lost:
            return
        payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if self._sending is None:
            self._early.append(payload)
        else:
            self._queue(self._sending, payload)

    def _queue(self, macs: _Macs, payload: bytes) -> None:
        self._out += _LENGTH.pack(len(payload))
        self._out += macs.next(payload)
        self._out += payload
        self.flush()

    def flush(self) -> bool:
        """Write what the socket takes now; True when nothing waits."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:  # reading reports that the other end has gone, after what it had sent before
            self._out.clear()
        return not self._out

    def take(self) -> list[object]:
        """All messages that have come whole; sets `lost` when the other end has closed, or when an HMAC is wrong."""
        self._read()
        messages = []
        while (payload := self._whole()) is not None:
            messages.append(pickle.loads(payload))
        return messages

    def _read(self) -> None:
        try:
            for _ in range(_CHUNKS):
                chunk = self._socket.recv(_CHUNK)
                if not chunk:
                    self.lost = self.lost or "the connection was closed"
                    return
                self._in += chunk
        except BlockingIOError:
            pass
        except OSError as error:
            self.lost = self.lost or str(error.strerror)

    def _whole(self) -> bytes | None:
        """The next message's bytes, if they are all there and their HMAC is right."""
        receiving = self._receiving or self._greet()
        if receiving is None:
            return None
        start = _LENGTH.size + _MAC_BYTES
        if len(self._in) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._in)
        if length > self.largest:
            self._refuse("what came is no message of ours")
            return None
        if len(self._in) < start + length:
            return None
        mac, payload = bytes(self._in[_LENGTH.size : start]), bytes(self._in[start : start + length])
        if not hmac.compare_digest(mac, receiving.next(payload)):
            self._refuse("the secret is another one")
            return None
        del self._in[: start + length]
        return payload

    def _greet(self) -> _Macs | None:
        """Make the keys once the other end's greeting is there; with what verifies its messages, None before."""
        if not _MAGIC.startswith(self._in[: len(_MAGIC)]):
            self._refuse("what answers is not rayhpc")
        if len(self._in) < _GREETING_BYTES:
            return None
        other = bytes(self._in[:_GREETING_BYTES])
        del self._in[:_GREETING_BYTES]
        self.greeted = True
        greetings = self._greeting + other if self._role == HEAD else other + self._greeting
        others_role = WORKER if self._role == HEAD else HEAD
        self._sending = _Macs(self._secret, self._role, greetings)
        self._receiving = _Macs(self._secret, others_role, greetings)
        for payload in self._early:
            self._queue(self._sending, payload)
        self._early.clear()
        return self._receiving

    def _refuse(self, why: str) -> None:
        self.lost = why
        self._in.clear()

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        with contextlib.suppress(OSError):  # the other end has gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TcpComm:
    """The ranks of one launch, connected through rank 0; a Comm. Two other ranks cannot write to each other.

    gone: ranks whose connection has ended.
    """

    def __init__(
        self, rank: int, size: int, links: Mapping[int, Link], leave_seconds: float = LEAVE_SECONDS
    ) -> None:
        self.rank = rank
        self._leave_seconds = leave_seconds
        self.size = size
        self.gone: frozenset[int] = frozenset()
        self._links = dict(links)
        self._mail: deque[tuple[int, Mail]] = deque()
        self._selector = selectors.DefaultSelector()
        for number, link in self._links.items():
            link.largest = LARGEST
            self._selector.register(link, selectors.EVENT_READ, number)

    def send(self, to: int, message: Mail) -> None:
        """Queue a message, also to oneself; one to a rank that has gone is dropped."""
        if to == self.rank:
            self._mail.append((to, message))
            return
        if to not in self._links:
            raise ValueError(f"rank {self.rank} has no connection to rank {to}")
        self._links[to].send(message)

    def receive(self) -> tuple[int, Mail] | None:
        """The next message, if one is there; this also drives the sends that are under way."""
        if not self._mail:
            self._look()
        return self._mail.popleft() if self._mail else None

    def _look(self) -> None:
        for link in self._links.values():
            link.flush()
        for key, _ in self._selector.select(0):
            self._take(key.data, self._links[key.data])

    def keep(self, rank: int, messages: Iterable[object]) -> None:
        """Queue what a rank has sent; an abort ends this process."""
        for message in messages:
            if isinstance(message, _Abort):
                self._aborted(rank, message.code)
            self._mail.append((rank, cast(Mail, message)))  # its HMAC says that one of our ranks has sent it

    def _take(self, rank: int, link: Link) -> None:
        self.keep(rank, link.take())
        if link.lost:
            self._selector.unregister(link)
            self.gone |= {rank}

    def _aborted(self, rank: int, code: int) -> NoReturn:
        """Another rank has ended the run: rank 0 prints that and ends the others."""
        if self.rank == 0:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"rayhpc: rank {rank} has ended the run with code {code}\n")
        self.abort(code)

    def settle(self) -> None:
        """Nothing to do."""

    def leave(self) -> None:
        """Deliver what was sent, and wait until the others leave, too, five seconds at most."""
        links = [link for link in self._links.values() if not link.lost]
        end = time.monotonic() + self._leave_seconds
        _flush(links, end)
        for link in links:
            link.finish()
        while (open_ones := [link for link in links if not link.lost]) and (left := end - time.monotonic()) > 0:
            for link in polling.readable(open_ones, left):
                link.take()
        self._close()

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once; a rank that cannot be reached notices that its connection has ended."""
        for link in self._links.values():
            link.send(_Abort(code))
        _flush(self._links.values(), time.monotonic() + _ABORT_SECONDS)
        with contextlib.suppress(OSError):  # a terminal that has gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def _close(self) -> None:
        self._selector.close()
        for link in self._links.values():
            link.close()


def _flush(links: Collection[Link], end: float) -> None:
    """Send what waits, until `end` (monotonic)."""
    waiting = [link for link in links if not link.flush()]
    while waiting and (left := end - time.monotonic()) > 0:
        polling.writable(waiting, left)
        waiting = [link for link in waiting if not link.flush()]
