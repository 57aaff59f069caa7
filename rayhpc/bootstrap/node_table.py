"""Ray's table of nodes, as rank 0 sees it: rank 0 does not import Ray, and asks the head's `ray start`."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import closing
from typing import Any

from rayhpc.model import AliveNode

# More than Ray's client takes to give up.
_ANSWER_SECONDS = 5.0
# Between two questions, until somebody sets another pause.
_FIRST_PAUSE = 0.02


class NodeTable:
    """The head's table of nodes, which a thread asks again and again: the supervisor
    never waits for an answer.

    address: of the GCS; path: where a `ray start` of ours answers; every: seconds between two questions. nodes: those
    that were alive at the last answer, None before the first; silence: seconds since that answer; closed: the port that
    has answered refuses connections, since its GCS has ended. joined: a run whose nodes alone are looked at, in the
    cluster of another; drained: Ray has taken the order to drain them.
    """

    def __init__(self, address: str, path: str, every: float = _FIRST_PAUSE, joined: str = "") -> None:
        self.nodes: tuple[AliveNode, ...] | None = None
        self.closed = False
        self.last_error = ""
        self.every = every
        self.drained = False
        self._address, self._path, self._joined = address, path, joined
        self._drain_until = 0.0
        self._heard = time.monotonic()
        self._done = threading.Event()

    def start(self) -> None:
        """Begin to ask, once the head is started."""
        self._heard = time.monotonic()
        threading.Thread(target=self._run, name="node-table", daemon=True).start()

    @property
    def silence(self) -> float:
        """Seconds since the last answer, or since the beginning."""
        return time.monotonic() - self._heard

    def move(self, address: str) -> None:
        """Ask another head from now on, perhaps at the same address; what the old one said is forgotten."""
        self._address, self.nodes = address, None
        self._heard = time.monotonic()

    def drain(self, until: float) -> None:
        """Let Ray give the nodes no more work, and end each that has none left; until: Unix seconds."""
        self._drain_until = until

    def close(self) -> None:
        """Ask no more."""
        self._done.set()

    def _run(self) -> None:
        """Ask, of one `ray start` after the other: it may not be there yet, or be started again."""
        while not self._done.is_set():
            try:
                with closing(socket.socket(socket.AF_UNIX)) as link:
                    link.settimeout(_ANSWER_SECONDS)
                    link.connect(self._path)
                    self._ask(link)
            except OSError as error:
                self.last_error = f"`ray start` does not answer at {self._path}: {error.strerror or error}"
            self._done.wait(self.every)

    def _ask(self, link: socket.socket) -> None:
        """Until the other side has gone."""
        with link.makefile("rb") as answers:
            while not self._done.is_set():
                asked, until = self._address, self._drain_until
                order = [f"{1000 * until:.0f}", *(node.id for node in self.nodes or ())] if until else []
                link.sendall(f"{' '.join([asked, *order])}\n".encode())
                line = answers.readline()
                if not line.endswith(b"\n"):
                    return
                if asked == self._address:
                    self._take(json.loads(line))
                if order and "drained" in json.loads(line):
                    self.drained, self._drain_until = True, 0.0
                self._done.wait(self.every)

    def _take(self, answer: dict[str, Any]) -> None:
        self.closed = self.nodes is not None and answer.get("closed", False)
        self.last_error = answer.get("error", self.last_error)
        if "rows" in answer:
            own = f"{self._joined}." if self._joined else ""
            rows = [(label.removeprefix(own), *row) for label, *row in answer["rows"] if label.startswith(own)]
            self.nodes, self._heard = tuple(_node(*row) for row in rows), time.monotonic()


def _node(label: str, address: str, cpus: float, gpus: float, identity: str, metrics_port: int = 0) -> AliveNode:
    rank = int(label) if label.isdigit() else None
    guest = label if "." in label else ""
    return AliveNode(rank, address, float(cpus), float(gpus), identity, metrics_port, guest)
