"""The way from a laptop to what a cluster serves on HTTP: `ssh -L` through a login node. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.model import ClusterEntry

DASHBOARD, PROMETHEUS, GRAFANA = 8265, 9090, 3000
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Tunnel:
    """The command, and what the browser is told: (name, URL) of each service."""

    argv: tuple[str, ...]
    pages: tuple[tuple[str, str], ...]


def plan_tunnel(entry: ClusterEntry, via: str, extra: Sequence[tuple[str, int]] = ()) -> Tunnel:
    """The tunnel to the dashboard, and to other services on the head's host; raises RayhpcError where there is none.

    via: [USER@]HOST of the login node; extra: (name, port).
    """
    if not via.rpartition("@")[2] or via.startswith("-"):
        step = "rayhpc cluster tunnel --via ada@login1.example.org"
        raise RayhpcError(Fault(f"--via {via!r} is no [USER@]HOST", ExitCode.USAGE, next_step=step))
    host = entry.address.rpartition(":")[0]
    port = entry.dashboard.rpartition(":")[2]
    dashboard = [("dashboard", DASHBOARD, f"{host}:{port}")] if entry.dashboard else []
    collected = [("Prometheus", PROMETHEUS, entry.metrics.removeprefix("http://"))] if entry.metrics else []
    taken = {number for _, number, _ in collected}
    there = LOOPBACK if collected else host
    others = [(name, number, f"{there}:{number}") for name, number in extra if number not in taken]
    ways = [*dashboard, *collected, *others]
    if not ways:
        raise configuration(
            f"the cluster {entry.id} has no dashboard and no metrics",
            next_step="start it with --dashboard or --metrics; --prometheus and --grafana forward these ports alone",
        )
    forwards = [word for _, number, target in ways for word in ("-L", f"{number}:{target}")]
    # The run's own Prometheus, and a Grafana beside it, listen on loopback: the tunnel ends on the head's host.
    hops = ("-J", via, entry.host) if collected else (via,)
    argv = ("ssh", "-N", "-o", "ExitOnForwardFailure=yes", *forwards, *hops)
    return Tunnel(argv, tuple((name, f"http://localhost:{number}") for name, number, _ in ways))
