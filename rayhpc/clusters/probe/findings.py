"""What a probe of a cluster says: rows of a table, and what is not as it should be. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rayhpc.errors import counted, shortened

COLUMNS = ("CLUSTER", "RANK", "HOST", "CPUS", "GPUS", "PYTHON", "RAY", "TORCH", "DISK", "SHM", "MB/S")
# Ray makes no object on a file system that is fuller than this (RAY_local_fs_capacity_threshold).
_FULL = 0.95


@dataclass(frozen=True)
class Expected:
    """What a cluster was when its run registered it."""

    nodes: int
    gpus: float


def rows(name: str, nodes: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each node, as COLUMNS names its cells."""
    return [_row(name, node) for node in nodes]


def _row(name: str, node: dict[str, Any]) -> tuple[str, ...]:
    versions = node.get("versions", {})
    return (
        name,
        node["rank"],
        node["host"],
        f"{node['cpus_given']:g}",
        f"{_seen(node)} of {node['gpus_given']:g}" if node["gpus_given"] or _seen(node) != "0" else "0",
        *(versions.get(package, "-") for package in ("python", "ray", "torch")),
        _size(node.get("disk_free")),
        _size(node.get("shm_free")),
        f"{node['network']['rate']:.0f}" if "rate" in node.get("network", {}) else "-",
    )


def _seen(node: dict[str, Any]) -> str:
    """GPUs that the node sees: torch's figure where there is torch, else the driver's for the host."""
    torch, devices = node.get("torch_devices"), node.get("devices")
    return "?" if devices is None else str(devices if torch is None else torch)


def _size(bytes_free: int | None) -> str:
    return "-" if bytes_free is None else f"{bytes_free / 2**30:.1f}G"


def findings(expected: Expected, nodes: Sequence[dict[str, Any]]) -> list[str]:
    """What is not well, a line each."""
    return [
        *_missing(expected, nodes),
        *(f"{_place(node)}: {node['error']}" for node in nodes if "error" in node),
        *(f"{_place(node)}: import {name}: {why}" for node in nodes for name, why in node.get("broken", {}).items()),
        *_differences(nodes),
        *_too_few_gpus(nodes),
        *(f"{_place(node)}: the disk of Ray's session is full: {_size(node['disk_free'])} free"
          for node in nodes if "disk_free" in node and node["disk_free"] < (1 - _FULL) * node["disk_total"]),
        *(f"{_place(node)}: no transfer from rank {node['network']['from']}: {node['network']['error']}"
          for node in nodes if "error" in node.get("network", {})),
    ]  # fmt: skip


def _place(node: dict[str, Any]) -> str:
    return f"rank {node['rank'] or '?'} on {node['host']}"


def _missing(expected: Expected, nodes: Sequence[dict[str, Any]]) -> Iterable[str]:
    if len(nodes) < expected.nodes:
        yield f"{len(nodes)} of {counted(expected.nodes, 'node')} are alive"
    given = sum(node["gpus_given"] for node in nodes)
    if given < expected.gpus and len(nodes) >= expected.nodes:
        yield f"{given:g} of {expected.gpus:g} GPUs are in the cluster"


def _differences(nodes: Sequence[dict[str, Any]]) -> Iterable[str]:
    """What has another version, or is missing, on some of the nodes that answered."""
    answers = [node for node in nodes if "versions" in node]
    for package in sorted({name for node in answers for name in node["versions"]}):
        found: dict[str, list[str]] = defaultdict(list)
        for node in answers:
            found[node["versions"].get(package, "none")].append(_place(node))
        if len(found) > 1:
            yield f"{package} differs: " + "; ".join(f"{it}: {shortened(where, 3)}" for it, where in found.items())


def _too_few_gpus(nodes: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Hosts whose driver has fewer GPUs than their nodes were given, and nodes whose torch sees fewer."""
    hosts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        if "devices" in node:
            hosts[node["host"]].append(node)
    for host, ours in hosts.items():
        given, seen = sum(node["gpus_given"] for node in ours), ours[0]["devices"]
        if seen < given:
            yield f"{host}: {given:g} GPUs were given to Ray, and the driver has {seen}"
    for node in nodes:
        torch = node.get("torch_devices")
        if torch is not None and torch < node["gpus_given"]:
            yield f"{_place(node)}: {node['gpus_given']:g} GPUs were given to Ray, and torch sees {torch}"
