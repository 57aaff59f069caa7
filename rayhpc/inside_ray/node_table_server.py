"""Ray's node table for rank 0, which has no Ray: read beside the head, in one of two ways.

In a thread of the head's `ray start`, with GcsClient.get_all_node_info. That is private, and answers in a millisecond
without a driver and without a raylet. Without the patches in a program of its own, MAIN SOCKET, with ray.init() and
ray.nodes(). That is public, takes half a second, and is a row in Ray's list of jobs.

Rank 0 asks through node_table.py. A question is the address of a GCS, a line; the answer is a JSON object, a line too:
rows (rank's label, address, CPUs, GPUs, id and metrics' port of each living node), or closed (whether the port refuses
connections), or error (of Ray's client). Behind the address may stand a time in Unix milliseconds and the ids of nodes
that shall leave: they get no more work, and each ends when it has none left. drained says that Ray has taken that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from rayhpc.inside_ray.names import RANK_LABEL

_ASK_SECONDS = 2.0
# `ray drain-node` imports Ray first.
_DRAIN_SECONDS = 30.0
_ALIVE = 0
# Of Ray's DrainNodeReason the one that no node refuses.
_PREEMPTION = 2
_WHY = "the job that has brought the node ends"


def answer(path: str) -> None:
    """Answer at this socket in a thread, until the process ends; raises OSError if the socket cannot be made.

    Whoever may enter its directory may ask.
    """
    server = _listen(path)
    threading.Thread(target=_answer_all, args=(server, Table()), name="node-table", daemon=True).start()


def _listen(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)  # of a `ray start` that failed
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def _answer_all(server: socket.socket, table: Table) -> None:
    """One caller after the other."""
    while True:
        caller, _ = server.accept()
        # A caller that has gone needs no answer.
        with caller, contextlib.suppress(OSError), caller.makefile("rb") as questions:
            for question in questions:
                caller.sendall(json.dumps(table.ask(question.decode().strip())).encode() + b"\n")


class Table:
    """The node table of one GCS at a time."""

    def __init__(self) -> None:
        self._address = ""
        self._client: Any = None

    def ask(self, question: str) -> dict[str, Any]:
        """The answer, whatever Ray's client does; after 2 s without one at the latest; an order takes longer."""
        address, *order = question.split()
        try:
            listens = _listens(address)
            if address != self._address or not listens:
                self._forget()  # a head that is started again has another cluster id
                self._address = address
            if not listens:
                return {"closed": listens is False}
            rows = self._rows(address)
            if order:
                self._drain(address, int(order[0]), order[1:])
            return {"rows": rows, **({"drained": True} if order else {})}
        except Exception as error:  # Ray's errors share no base class between its releases
            return {"error": f"{type(error).__name__}: {error}"}

    def _rows(self, address: str) -> list[list[Any]]:
        self._client = self._client or _client_class()(address=address)
        found = self._client.get_all_node_info(timeout=_ASK_SECONDS).values()
        return [_row(info) for info in found if info.state == _ALIVE]

    def _drain(self, _: str, until: int, nodes: list[str]) -> None:
        """Raises RuntimeError where Ray refuses."""
        for node in nodes:
            accepted, why = self._client.drain_node(node, _PREEMPTION, _WHY, until)
            if not accepted:
                raise RuntimeError(why)

    def _forget(self) -> None:
        self._client = None


class PublicTable(Table):
    """The same with Ray's public functions; the first answer waits for the head's raylet."""

    def _rows(self, address: str) -> list[list[Any]]:
        import ray

        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="rayhpc-node-table")
        return [_public_row(node) for node in ray.nodes() if node["Alive"]]

    def _drain(self, address: str, until: int, nodes: list[str]) -> None:
        left = str(max(0, until // 1000 - int(time.time())))
        words = ["--address", address, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", _WHY]
        words += ["--deadline-remaining-seconds", left, "--node-id"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *words]
        asked = [subprocess.Popen([*command, node]) for node in nodes]
        end, codes = time.monotonic() + _DRAIN_SECONDS, []
        for process in asked:
            try:
                codes.append(process.wait(max(0.0, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        if any(codes):
            raise RuntimeError(f"ray drain-node has failed, or has not ended within {_DRAIN_SECONDS:g} s")

    def _forget(self) -> None:
        import ray

        ray.shutdown()


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
    place = (label, info.node_manager_address)
    return [*place, total.get("CPU", 0.0), total.get("GPU", 0.0), info.node_id.hex(), info.metrics_export_port]


def _public_row(node: dict[str, Any]) -> list[Any]:
    total, label = node["Resources"], node["Labels"].get(RANK_LABEL, "")
    place = (label, node["NodeManagerAddress"])
    return [*place, total.get("CPU", 0.0), total.get("GPU", 0.0), node["NodeID"], node["MetricsExportPort"]]


def main(path: str) -> None:
    """Answer at this socket with Ray's public functions, until this process is ended."""
    here = str(Path(__file__).parent)
    if sys.path[0] == here:  # not with PYTHONSAFEPATH
        del sys.path[0]
    _answer_all(_listen(path), PublicTable())


if __name__ == "__main__":
    main(sys.argv[1])
