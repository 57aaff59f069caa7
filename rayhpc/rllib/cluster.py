"""The Ray cluster as a driver sees it: is it there, attach to it, which nodes it has."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.signals import Signals

CONNECT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Node:
    """A living Ray node."""

    node_id: str
    host: str
    cpus: int


def check_reachable(address: str) -> None:
    """Raise UsageError if nobody listens at HOST:PORT, which ray.init would try for a quarter of an hour."""
    host, colon, port = address.rpartition(":")
    if "/" in host or not (host and colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as problem:
        raise UsageError(f"no Ray cluster at {address} (from --ray-address or $RAY_ADDRESS): {problem}") from problem


@contextmanager
def ray_session(address: str | None, signals: Signals) -> Iterator[None]:
    """Ray for the block: the cluster at `address` or $RAY_ADDRESS, else a local one; ConnectionError if none."""
    import ray

    signals.check()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except SystemExit:
        # While ray.init runs, SIGTERM has a handler of Ray's, which calls sys.exit.
        signals.first = signals.first or signal.SIGTERM
        raise KeyboardInterrupt from None
    finally:
        signals.install()
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def living_nodes() -> list[Node]:
    """The nodes of the cluster, the driver's first."""
    import ray

    mine = ray.get_runtime_context().get_node_id()
    nodes = [
        Node(str(node["NodeID"]), str(node["NodeManagerHostname"]), int(node["Resources"].get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.node_id != mine, node.host, node.node_id))
