"""What many tests need: data of the program with one word changed, hostile names, waiting with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rayhpc.bootstrap.run_context import RunContext
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.log import Console
from rayhpc.model import Assignment, ClusterEntry, ClusterSpec, Gpus, Interface, NodeSpec, RankResources, Versions
from rayhpc.options import Options
from rayhpc.ranks.comm import SoloComm
from rayhpc.records.run_directory import EventLog

GIB = 2**30

# Whatever a user calls a file, a directory or a resource.
HOSTILE = (
    "a'; echo foo",
    "two words",
    "new\nline",
    'quo"te',
    "$(touch x) `touch y` $HOME",
    "naïve-日本-🙂",
    "-rf",
    "*?[a]{b,c}",
)

VERSIONS = Versions("2.60.0", "3.11.7", "0.1.0")

# What says, in some environment, that a process is one of several; and our own options.
LAUNCHER_PREFIXES = (
    "PMI", "OMPI_", "MV2_", "MPI_LOCAL", "SLURM", "ALPS_", "PALS_", "HYD", "PRTE", "PBS", "COBALT", "LSB_", "RAYHPC",
)  # fmt: skip


def rank_resources(rank: int = 0, host: str = "a", **changes: Any) -> RankResources:
    """An ordinary rank: 8 CPUs, 64 GiB, no GPU."""
    values: dict[str, Any] = {
        "rank": rank,
        "host": host,
        "host_id": f"{host}/boot/net",
        "interfaces": (Interface("eth0", "10.0.0.1"),),
        "cpus": frozenset(range(8)),
        "cpu_limit": None,
        "scheduler_cpus": None,
        "memory": 64 * GIB,
        "shm": 32 * GIB,
        "gpus": Gpus(),
        "temp_base": "/tmp",
        "versions": VERSIONS,
        "launcher": "mpiexec",
    }
    return RankResources(**{**values, **changes})


def node(rank: int = 0, host: str | None = None, **changes: Any) -> NodeSpec:
    """A node of 2 CPUs."""
    values: dict[str, Any] = {
        "rank": rank,
        "host": host or f"host{rank}",
        "address": f"10.0.0.{rank + 1}",
        "cpus": 2,
        "gpus": Gpus(),
        "memory": 2 * GIB,
        "object_store": GIB,
        "temp_dir": f"/tmp/rh-01234567-{rank}",
    }
    return NodeSpec(**{**values, **changes})


def cluster(nodes: int | Iterable[NodeSpec] = 3, **changes: Any) -> ClusterSpec:
    """A cluster of so many nodes, or of these."""
    made = tuple(map(node, range(nodes))) if isinstance(nodes, int) else tuple(nodes)
    values: dict[str, Any] = {
        "run_id": "20261121-094408-01234567",
        "run_dir": "/runs/20261121-094408-01234567",
        "port": 20001,
        "dashboard_port": 0,
        "ranks": len(made),
        "hosts": len({entry.host for entry in made}),
        "versions": VERSIONS,
        "scheduler": "",
        "batch_job_id": "",
        "deadline": 0.0,
        "nodes": made,
    }
    return ClusterSpec(**{**values, **changes})


def assignment(spec: ClusterSpec | None = None, rank: int = 0, token: str = "s3cret") -> Assignment:
    """What one rank of a cluster gets."""
    spec = spec or cluster()
    return Assignment(
        run_id=spec.run_id,
        run_dir=spec.run_dir,
        head_address=spec.head.address,
        dashboard_port=spec.dashboard_port,
        nodes=len(spec.nodes),
        ray=spec.versions.ray,
        node=spec.node(rank),
        token=token,
    )


def context(directory: Path, **changes: Any) -> RunContext:
    """What rank 0's stages share; the record is made in this directory."""
    values: dict[str, Any] = {
        "comm": SoloComm(),
        "options": Options(),
        "argv": ("train.py",),
        "console": Console(0.0),
        "watch": None,
        "log": None,
    }
    values |= changes
    return RunContext(**{**values, "log": values["log"] or EventLog(directory)})


def entry(**changes: Any) -> ClusterEntry:
    """A held cluster of two nodes, outside of any job."""
    values: dict[str, Any] = {
        "id": "20261121-094408-01234567",
        "user": "ada",
        "host": "a",
        "address": "10.0.0.1:20001",
        "dashboard": "",
        "nodes": 2,
        "cpus": 4.0,
        "gpus": 0.0,
        "run_dir": "/runs/20261121-094408-01234567",
        "scheduler": "",
        "batch_job_id": "",
        "command": (),
        "started_at": 1795254248.0,
        "deadline": 0.0,
        "tls": False,
        "pid": 4711,
    }
    return ClusterEntry(**{**values, **changes})


def code_of(error: RayhpcError) -> ExitCode:
    """The exit code that an error makes."""
    return error.fault.code


def until(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Look again and again; True as soon as the condition holds, False when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def timeline_event(seconds: float, stage: str, rank: int = 0, **more: Any) -> dict[str, Any]:
    """A line of events.jsonl, so many seconds after the first process of the run was started."""
    return {"at": 100.0 + seconds, "stage": stage, "rank": rank, "host": f"host{rank}", **more}


def story_events() -> list[dict[str, Any]]:
    """The events of an ordinary run of three nodes, in the order in which rank 0 writes them."""
    event = timeline_event
    return [
        event(2.0, "agreed"), event(2.1, "start"), event(1.0, "imported", since=100.5),
        event(1.5, "imported", 1, since=100.0), event(1.5, "imported", 2, since=100.0),
        event(5.0, "alive"), event(5.0, "head"), event(5.1, "start", 1), event(5.1, "start", 2),
        event(7.0, "alive", 1), event(8.0, "alive", 2), event(8.0, "up"), event(8.1, "driver"),
        event(20.0, "DriverEnded", event={"code": 0}), event(20.0, "decided", code=0), event(20.4, "released"),
    ]  # fmt: skip
