"""Look at every node of the cluster that this runs in as a job, and at the way between them; print one line of JSON.

Exits 0 whatever it finds. Arguments: the seconds it may take. Imports the standard library and ray alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

MARK = "rayhpc-probe "
_BLOCK = 64 * 2**20
# What training needs; those that are installed are imported, since an import is what fails in a broken environment.
_MODULES = ("numpy", "torch", "gymnasium")


def look() -> dict[str, Any]:
    """This node: what its host has, and what Python finds there."""
    import ray

    # There is no public word for it; Ray's own job supervisor asks the same.
    session = ray._private.worker._global_node.get_session_dir_path()
    disk, shm = shutil.disk_usage(session), shutil.disk_usage("/dev/shm")
    installed = {name: _version(name) for name in _MODULES if importlib.util.find_spec(name)}
    broken = {name: problem for name in installed if (problem := _import_problem(name))}
    return {
        "host": platform.node(),
        "versions": {"python": platform.python_version(), "ray": ray.__version__, **installed},
        "broken": broken,
        "devices": _devices(),
        "torch_devices": _torch_devices() if "torch" in installed and "torch" not in broken else None,
        "disk_free": disk.free,
        "disk_total": disk.total,
        "shm_free": shm.free,
        "shm_total": shm.total,
    }


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _import_problem(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises is what we want to know
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def _devices() -> int:
    """GPUs of NVIDIA's or AMD's driver on this host."""
    nvidia = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return nvidia or sum(1 for node in nodes if node.read_text().strip() != "0")


def _torch_devices() -> int:
    """GPUs that torch could use in this node."""
    import torch

    return int(torch.cuda.device_count())


def block(size: int) -> bytes:
    """So many bytes, which Ray keeps in the object store of the node that made them."""
    return os.urandom(size)


def pull(held: list[Any], seconds: float) -> float:
    """Seconds until an object of another node is in this one's store; raises TimeoutError."""
    import ray

    began = time.perf_counter()
    ready, _ = ray.wait(held, timeout=seconds, fetch_local=True)
    if not ready:
        raise TimeoutError(f"no transfer within {seconds:.0f} s")
    return time.perf_counter() - began


class Probe:
    """One look at all nodes that are alive, with one deadline."""

    def __init__(self, rows: list[dict[str, Any]], seconds: float) -> None:
        self._rows = sorted(rows, key=lambda row: (len(_rank(row)), _rank(row), row["NodeID"]))
        self._end = time.monotonic() + seconds

    def report(self) -> list[dict[str, Any]]:
        """A row for each node, the first one's last: the network is measured once no import runs any more."""
        asked = [self._on(row, look).remote() for row in self._rows]
        answers = [self._answer(ref) for ref in asked]
        reports = [{**_given(row), **answer} for row, answer in zip(self._rows, answers, strict=True)]
        for place in range(len(reports) if len(reports) > 1 else 0):
            reports[place]["network"] = self._network(self._rows[place - 1], self._rows[place])
        return reports

    def _on(self, row: dict[str, Any], what: Any) -> Any:
        """A task for one node, which needs none of its CPUs: a busy cluster answers, too."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pinned = NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)
        return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=pinned)(what)

    def _left(self) -> float:
        return max(0.1, self._end - time.monotonic())

    def _answer(self, ref: Any) -> dict[str, Any]:
        import ray

        try:
            return dict(ray.get(ref, timeout=self._left()))
        except Exception as error:  # a node's own trouble is its row's: Ray's errors share no base class
            return {"error": _line(error)}

    def _network(self, source: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
        """MB/s of an object from one node's store to another's, or why it did not arrive."""
        import ray

        size = min(_BLOCK, int(min(row["Resources"].get("object_store_memory", 0) for row in (source, target)) // 4))
        try:
            held = self._on(source, block).remote(size)
            if not ray.wait([held], timeout=self._left(), fetch_local=False)[0]:
                raise TimeoutError("the node did not make an object")
            seconds = ray.get(self._on(target, pull).remote([held], self._left()), timeout=self._left())
        except Exception as error:
            return {"from": _rank(source), "error": _line(error)}
        return {"from": _rank(source), "rate": size / seconds / 1e6, "bytes": size}


def _rank(row: dict[str, Any]) -> str:
    return str(row.get("Labels", {}).get("rayhpc-rank", ""))


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1] if text else ''}"[:300]


def _given(row: dict[str, Any]) -> dict[str, Any]:
    """What Ray was told that the node has."""
    resources = row["Resources"]
    return {
        "id": row["NodeID"],
        "rank": _rank(row),
        "host": row["NodeManagerHostname"],
        "address": row["NodeManagerAddress"],
        "cpus_given": resources.get("CPU", 0.0),
        "gpus_given": resources.get("GPU", 0.0),
    }


def main() -> None:
    """Attach, look, print."""
    import ray

    seconds = float(sys.argv[1])
    ray.init(log_to_driver=False, logging_level="ERROR")
    rows = [row for row in ray.nodes() if row["Alive"]]
    print(MARK + json.dumps(Probe(rows, seconds).report()), flush=True)


if __name__ == "__main__":
    main()
