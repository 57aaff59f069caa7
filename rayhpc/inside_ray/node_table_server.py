"""What we ask of Ray beside its command line: the node table, asked in the head's `ray start`, which has Ray at hand.

GcsClient.get_all_node_info is not part of Ray's public interface: it answers in a millisecond without a driver and
without a raylet, where ray.nodes() needs ray.init(), half a second and an entry in the list of jobs.

Rank 0 asks through node_table.py: a question is the address of a GCS, a line; the answer is a JSON object, a line too:
rows (rank's label, address, CPUs, GPUs and id of each living node), or closed (whether the port refuses connections),
or error (of Ray's client).
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from rayhpc.inside_ray.names import RANK_LABEL

_ASK_SECONDS = 2.0
_ALIVE = 0


def answer(path: str) -> None:
    """Answer at this socket, one caller after the other, until the process ends; raises OSError if it cannot be made.

    Whoever may enter its directory may ask.
    """
    Path(path).unlink(missing_ok=True)  # of a `ray start` that failed
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    threading.Thread(target=_answer_all, args=(server,), name="node-table", daemon=True).start()


def _answer_all(server: socket.socket) -> None:
    table = Table()
    while True:
        caller, _ = server.accept()
        # A caller that has gone needs no answer.
        with caller, contextlib.suppress(OSError), caller.makefile("rb") as questions:
            for question in questions:
                caller.sendall(json.dumps(table.ask(question.decode().strip())).encode() + b"\n")


class Table:
    """The table of one GCS at a time."""

    def __init__(self) -> None:
        self._address = ""
        self._client: Any = None

    def ask(self, address: str) -> dict[str, Any]:
        """The answer, whatever Ray's client does; after 2 s without one at the latest."""
        try:
            listens = _listens(address)
            if address != self._address or not listens:
                self._address, self._client = address, None  # a head that is started again has another cluster id
            if not listens:
                return {"closed": listens is False}
            self._client = self._client or _client_class()(address=address)
            found = self._client.get_all_node_info(timeout=_ASK_SECONDS).values()
            return {"rows": [_row(info) for info in found if info.state == _ALIVE]}
        except Exception as error:  # Ray's errors share no base class between its releases
            return {"error": f"{type(error).__name__}: {error}"}


def _listens(address: str) -> bool | None:
    """True if the port is open, False if it refuses, None without an answer: Ray's client would wait for 40 s."""
    host, _, port = address.rpartition(":")
    with closing(socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)) as trial:
        trial.settimeout(_ASK_SECONDS)
        return {0: True, errno.ECONNREFUSED: False}.get(trial.connect_ex((host.strip("[]"), int(port))))


def _client_class() -> Any:
    import ray._raylet

    return ray._raylet.GcsClient


def _row(info: Any) -> list[Any]:
    total = dict(info.resources_total)
    label = dict(info.labels).get(RANK_LABEL, "")
    return [label, info.node_manager_address, total.get("CPU", 0.0), total.get("GPU", 0.0), info.node_id.hex()]
