"""The server's end of `kubectl port-forward`: SPDY/3.1 frames on an upgraded connection, as much as kubectl uses."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

# The words that both ends' compression begins with (SPDY protocol, draft 3.1, 2.6.10.1); kubectl sends its checksum.
_WORDS = """\
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age
allow authorization cache-control connection content-base content-encoding content-language content-length
content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status"""
_MORE = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(struct.pack(">I", len(word)) + word.encode() for word in [*_WORDS.split(), *_MORE]) + _TAIL.encode()
)
_SYN_STREAM, _SYN_REPLY, _RST, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 1
Connect = Callable[[int], socket.socket]


@dataclass
class Session:
    """One connection of kubectl: each forwarded connection is a pair of streams, data and error."""

    reader: BinaryIO
    writer: socket.socket
    connect: Connect
    pods: dict[int, socket.socket] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def serve(self) -> None:
        """Until kubectl hangs up."""
        try:
            while head := self.reader.read(8):
                first, second = struct.unpack(">II", head)
                flags, body = second >> 24, self.reader.read(second & 0xFFFFFF)
                if first >> 31:
                    self._control(first & 0xFFFF, body)
                elif first in self.pods:
                    self._to_pod(first, flags, body)
        except (OSError, struct.error):
            pass  # kubectl was killed: its connections end with it
        finally:
            for pod in self.pods.values():
                pod.close()

    def _control(self, kind: int, body: bytes) -> None:
        if kind == _SYN_STREAM:
            (stream,) = struct.unpack(">I", body[:4])
            self._open(stream, self._headers(body[10:]))
        elif kind == _PING:
            self._send(struct.pack(">HHI", 0x8003, _PING, 4) + body)
        elif kind == _RST and (pod := self.pods.pop(struct.unpack(">I", body[:4])[0], None)):
            pod.close()

    def _headers(self, block: bytes) -> dict[str, str]:
        text, place, words = self._inflate.decompress(block), 4, []
        for _ in range(2 * struct.unpack(">I", text[:4])[0]):
            (size,) = struct.unpack(">I", text[place : place + 4])
            words.append(text[place + 4 : place + 4 + size].decode())
            place += 4 + size
        return dict(zip(words[::2], words[1::2], strict=True))

    def _open(self, stream: int, headers: dict[str, str]) -> None:
        with self._lock:
            block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            self.writer.sendall(struct.pack(">HHII", 0x8003, _SYN_REPLY, 4 + len(block), stream) + block)
        if headers["streamtype"] == "error":
            self.errors[headers["requestid"]] = stream
            return
        error = self.errors[headers["requestid"]]
        try:
            self.pods[stream] = self.connect(int(headers["port"]))
        except OSError as problem:
            self._data(error, f"an error occurred forwarding {headers['port']}: {problem}".encode(), _FIN)
            self._data(stream, b"", _FIN)
        else:
            threading.Thread(target=self._from_pod, args=(stream, error), daemon=True).start()

    def _to_pod(self, stream: int, flags: int, body: bytes) -> None:
        with contextlib.suppress(OSError):  # the pod has hung up: _from_pod says so
            self.pods[stream].sendall(body)
            if flags & _FIN:
                self.pods[stream].shutdown(socket.SHUT_WR)

    def _from_pod(self, stream: int, error: int) -> None:
        with contextlib.suppress(OSError):
            while piece := self.pods[stream].recv(65536):
                self._data(stream, piece)
        with contextlib.suppress(OSError):
            self._data(error, b"", _FIN)
            self._data(stream, b"", _FIN)

    def _data(self, stream: int, piece: bytes, flags: int = 0) -> None:
        self._send(struct.pack(">II", stream, flags << 24 | len(piece)) + piece)

    def _send(self, frame: bytes) -> None:
        with self._lock:
            self.writer.sendall(frame)
