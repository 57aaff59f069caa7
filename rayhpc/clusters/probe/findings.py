"""What a probe of a cluster says: rows of a table, and what is not as it should be. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayhpc import finding
from rayhpc.errors import counted, shortened
from rayhpc.finding import Finding, fail

Row = dict[str, Any]

COLUMNS = ("CLUSTER", "RANK", "HOST", "CPUS", "GPUS", "PYTHON", "RAY", "TORCH", "DISK", "SHM", "MB/S")
# Ray makes no object on a file system that is fuller than this (RAY_local_fs_capacity_threshold).
_FULL = 0.95


@dataclass(frozen=True)
class Expected:
    """What a cluster was when its run registered it."""

    nodes: int
    gpus: float


def rows(name: str, nodes: Sequence[Row]) -> list[tuple[str, ...]]:
    """A row for each node, as COLUMNS names its cells."""
    return [_row(name, node) for node in nodes]


def _row(name: str, node: Row) -> tuple[str, ...]:
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


def _seen(node: Row) -> str:
    """GPUs that the node sees: torch's figure where there is torch, else the driver's for the host."""
    torch, devices = node.get("torch_devices"), node.get("devices")
    return "?" if devices is None else str(devices if torch is None else torch)


def _size(bytes_free: int | None) -> str:
    return "-" if bytes_free is None else f"{bytes_free / 2**30:.1f}G"


def findings(expected: Expected, nodes: Sequence[Row]) -> list[Finding]:
    """What is not well."""
    return [replace(found, id=finding.name(check)) for check in CHECKS for found in check(expected, nodes)]


def _on(node: Row, found: Finding) -> Finding:
    return replace(found, where=_place(node))


def _place(node: Row) -> str:
    return f"rank {node['rank'] or '?'} on {node['host']}"


def nodes_alive(expected: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """All Ray nodes that the run had are alive, with their GPUs.

    A node is gone when its host failed, its raylet was killed, or nobody reached it for longer than Ray waits. The
    run's directory has the last lines of each node.
    """
    step = "rayhpc cluster show ID names the run's directory, which has the logs of every node"
    if len(nodes) < expected.nodes:
        yield fail(f"{len(nodes)} of {counted(expected.nodes, 'node')} are alive", next_step=step)
    given = sum(node["gpus_given"] for node in nodes)
    if given < expected.gpus and len(nodes) >= expected.nodes:
        yield fail(f"{given:g} of {expected.gpus:g} GPUs are in the cluster", next_step=step)


def node_answers(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """Each Ray node runs a task in time.

    A node that does not is overloaded, out of memory, or cannot start a worker: its log in the run's directory says
    why. A busy file system makes the first import slow.
    """
    for node in nodes:
        if "error" in node:
            step = f"look at rank-{node['rank'] or 'N'}.log in the run's directory; a longer --timeout, if it is busy"
            yield _on(node, fail("it ran no task", node["error"], next_step=step))


def imports(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """numpy, torch and gymnasium can be imported on each Ray node where they are installed.

    What a library needs of the host, such as a driver's library, may be missing on one host alone.
    """
    for node in nodes:
        for module, why in node.get("broken", {}).items():
            step = f"python -c 'import {module}' on {node['host']}, in the environment of the run"
            yield _on(node, fail(f"import {module} fails", why, next_step=step))


def versions(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """Python, Ray and torch are the same on all nodes that answered."""
    answers = [node for node in nodes if "versions" in node]
    for package in sorted({name for node in answers for name in node["versions"]}):
        found: dict[str, list[str]] = defaultdict(list)
        for node in answers:
            found[node["versions"].get(package, "none")].append(_place(node))
        if len(found) > 1:
            differing = [f"{it}: {shortened(where, 3)}" for it, where in found.items()]
            yield fail(f"{package} differs", *differing, next_step="use one environment for all hosts")


def gpu_count(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """Each host's driver has the GPUs that Ray was given."""
    hosts: dict[str, list[Row]] = defaultdict(list)
    for node in nodes:
        if "devices" in node:
            hosts[node["host"]].append(node)
    for host, ours in hosts.items():
        given, seen = sum(node["gpus_given"] for node in ours), ours[0]["devices"]
        if seen < given:
            found = fail(f"{given:g} GPUs were given to Ray, and the driver has {seen}", next_step=_GPU_STEP)
            yield replace(found, where=host)


def gpu_torch(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """torch sees the GPUs that Ray was given."""
    for node in nodes:
        torch = node.get("torch_devices")
        if torch is not None and torch < node["gpus_given"]:
            what = f"{node['gpus_given']:g} GPUs were given to Ray, and torch sees {torch}"
            yield _on(node, fail(what, next_step=_GPU_STEP))


def temp_dir(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """The disk of Ray's session has room."""
    for node in nodes:
        if "disk_free" in node and node["disk_free"] < (1 - _FULL) * node["disk_total"]:
            what = f"the disk of Ray's session is full: {_size(node['disk_free'])} free"
            yield _on(node, fail(what, next_step="clear it, or start the next run with --temp-dir on another"))


def transfer(_: Expected, nodes: Sequence[Row]) -> Iterator[Finding]:
    """An object goes from each Ray node to the next.

    Ray moves objects over ports of its own, between any two nodes: a firewall on one host is enough.
    """
    for node in nodes:
        network = node.get("network", {})
        if "error" in network:
            what = f"no transfer from rank {network['from']}"
            step = "mpirun … python -m rayhpc.start --check tries the ways between the hosts"
            yield _on(node, fail(what, network["error"], next_step=step))


_GPU_STEP = "rayhpc doctor on that host, with the same variables of GPUs"
# Those with the id of a check of `rayhpc doctor` look at the same thing, from inside of the cluster.
CHECKS: tuple[Callable[[Expected, Sequence[Row]], Iterable[Finding]], ...] = (
    nodes_alive, node_answers, imports, versions, gpu_count, gpu_torch, temp_dir, transfer,
)  # fmt: skip
