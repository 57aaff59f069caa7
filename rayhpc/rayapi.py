"""What we ask of Ray beside its command line: the node table. The only owner of ray.

GcsClient.get_all_node_info is not part of Ray's public interface: it answers in a millisecond without a driver and
without a raylet, where ray.nodes() needs ray.init(), half a second and an entry in the list of jobs.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rayhpc.model import AliveNode
from rayhpc.rayargs import RANK_LABEL

_ASK_SECONDS = 2.0


class NodeTable:
    """The head's table of nodes, asked again and again by a thread of its own, which also imports ray.

    Ray's client blocks for 40 s where nobody answers, and the import for minutes on a slow file system: neither may
    keep the supervisor from its signals. The token's mode and path are Ray settings that hold for the process, so a
    process has one table.

    nodes: the living nodes at the last answer, None before the first; silence: seconds since that answer; closed: the
    port that has answered refuses connections, since its GCS has ended.
    """

    def __init__(self, address: tuple[str, int], environment: Mapping[str, str], every: float) -> None:
        os.environ.pop("RAY_AUTH_TOKEN", None)  # a user's own would win over the path of ours
        os.environ.update(environment)
        self.nodes: tuple[AliveNode, ...] | None = None
        self.closed = False
        self.last_error = ""
        self.every = every
        self._address = address
        self._heard = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-table", daemon=True)
        self._thread.start()

    @property
    def silence(self) -> float:
        """Seconds since the last answer, or since the beginning."""
        return time.monotonic() - self._heard

    def move(self, address: tuple[str, int]) -> None:
        """Ask another head from now on, perhaps at the same address; what the old one said is forgotten."""
        self._address, self.nodes = address, None
        self._heard = time.monotonic()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def join(self) -> None:
        """After close(): let the client go before the interpreter does."""
        self._thread.join(_ASK_SECONDS + 1.0)

    def _run(self) -> None:
        client, make, asked = None, None, self._address
        while not self._closed.is_set():
            try:
                make = make or _client_class()
                listens = _listens(asked)
                self.closed = asked == self._address and self.nodes is not None and listens is False
                if asked != self._address or not listens:
                    client, asked = None, self._address  # a head that is started again has another cluster id
                else:
                    client = client or make(address=_joined(asked))
                    table = client.get_all_node_info(timeout=_ASK_SECONDS)
                    self._take(asked, tuple(_row(info) for info in table.values() if info.state == 0))  # ALIVE
            except Exception as error:  # Ray's errors share no base class between its releases
                self.last_error = f"{type(error).__name__}: {error}"
            self._closed.wait(self.every)

    def _take(self, asked: tuple[str, int], nodes: tuple[AliveNode, ...]) -> None:
        if asked == self._address:
            self.nodes, self._heard = nodes, time.monotonic()


def _listens(address: tuple[str, int]) -> bool | None:
    """True if the port is open, False if it refuses, None without an answer: Ray's client would wait for 40 s."""
    with closing(socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)) as trial:
        trial.settimeout(_ASK_SECONDS)
        return {0: True, errno.ECONNREFUSED: False}.get(trial.connect_ex(address))


def _client_class() -> Any:
    """Ray's client; its import takes a while, in which the head starts."""
    import ray._raylet

    return ray._raylet.GcsClient


def _joined(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _row(info: Any) -> AliveNode:
    rank = dict(info.labels).get(RANK_LABEL, "")
    total = dict(info.resources_total)
    return AliveNode(
        rank=int(rank) if rank.isdigit() else None,
        address=info.node_manager_address,
        cpus=float(total.get("CPU", 0.0)),
        gpus=float(total.get("GPU", 0.0)),
        id=info.node_id.hex(),
    )
