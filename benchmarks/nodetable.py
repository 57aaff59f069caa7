"""What the node table costs rank 0 when it is long: python -m benchmarks.nodetable [ROWS] (default: 4000).

A real head, started as rayhpc starts it. Its GCS is told of that many nodes more, one after the other, each a copy of
the head's own row with another id, address and rank; they are never asked whether they live. Then the product's own
NodeTable asks it. Needs grpcio to speak to the GCS: pip install 'rayhpc[dashboard]'.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes, report
from benchmarks.contenders import free_port
from benchmarks.floor import end_all, node_of, start, until
from rayhpc import keeper
from rayhpc.bootstrap import allocation, readiness
from rayhpc.bootstrap.node import Node
from rayhpc.model import Assignment, Gpus, NodeSpec, Options
from rayhpc.rayapi import NodeTable
from rayhpc.rayargs import RANK_LABEL
from rayhpc.roster import Roster

_SECONDS = 20.0
_ASKS = 20
# The rows have no raylet behind them: nobody shall look for one.
_PATIENCE = {"RAY_health_check_initial_delay_ms": "100000000"}


def measure(rows: int, directory: Path) -> dict[str, float]:
    """Seconds and CPU seconds with so many rows."""
    run_id = f"table-{secrets.token_hex(4)}"
    spec = node_of(0, run_id)
    version = allocation.versions().ray
    own = Assignment(run_id, str(directory), spec.address, free_port(), 0, 1, version, spec, secrets.token_hex(32))
    node = Node(own, spec, Options())
    node.prepare()
    try:
        os.environ.update(_PATIENCE)
        head = start(node, own, "")
        table = NodeTable((own.head_address, own.port), node.authentication, 0.02)
        until(lambda: table.nodes, "the head")
        table.every = 1.0
        began, gcs = time.monotonic(), _cpu(head)
        register(f"{own.head_address}:{own.port}", own.token, rows)
        joins = {"join_seconds": (time.monotonic() - began) / rows, "join_gcs_cpu": (_cpu(head) - gcs) / rows}
        until(lambda: len(table.nodes or ()) == rows + 1, "all rows")
        return {"rows": rows + 1, **joins, **_asking(table, head), **_thinking(table)}
    finally:
        end_all(node)


def register(address: str, token: str, rows: int) -> None:
    """Tell the GCS of so many nodes, as a raylet does when it starts."""
    import grpc
    from ray.core.generated import gcs_service_pb2 as words
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    bearer = [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        service = NodeInfoGcsServiceStub(channel)
        known = service.GetClusterId(words.GetClusterIdRequest(), metadata=bearer)
        metadata = [*bearer, ("ray_cluster_id", known.cluster_id.hex())]
        pattern = service.GetAllNodeInfo(words.GetAllNodeInfoRequest(), metadata=metadata).node_info_list[0]
        for number in range(1, rows + 1):
            row = type(pattern)()
            row.CopyFrom(pattern)
            row.node_id, row.is_head_node = secrets.token_bytes(len(pattern.node_id)), False
            row.node_manager_address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            row.node_manager_hostname = row.node_name = f"nid{number:06}"
            row.labels[RANK_LABEL] = str(number)
            service.RegisterNode(words.RegisterNodeRequest(node_info=row), metadata=metadata)


def _asking(table: NodeTable, head: subprocess.Popen[bytes]) -> dict[str, float]:
    """One question after the other, then one a second as while a driver runs."""
    table.every = 0.0
    seconds, own, gcs = _span(table, head, _ASKS)
    table.every = 1.0
    calm, calm_cpu, calm_gcs = _span(table, head, int(_SECONDS))
    minutes = calm / 60
    return {
        "answer_seconds": seconds / _ASKS, "answer_cpu": own / _ASKS, "answer_gcs_cpu": gcs / _ASKS,
        "calm_cpu_per_minute": calm_cpu / minutes, "calm_gcs_cpu_per_minute": calm_gcs / minutes,
    }  # fmt: skip


def _span(table: NodeTable, head: subprocess.Popen[bytes], answers: int) -> tuple[float, float, float]:
    """Seconds until so many answers have come; the CPU seconds of this process and of the head's in that time."""
    _next(table)
    began, own, others = time.monotonic(), time.process_time(), _cpu(head)
    for _ in range(answers):
        _next(table)
    return time.monotonic() - began, time.process_time() - own, _cpu(head) - others


def _next(table: NodeTable) -> None:
    """Wait for another answer."""
    last = table.nodes
    until(lambda: table.nodes is not last, "an answer")


def _cpu(head: subprocess.Popen[bytes]) -> float:
    gcs = [pid for pid in keeper.descendants(head.pid) if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return processes.cpu(Path("/proc"), gcs)


def _thinking(table: NodeTable) -> dict[str, float]:
    """What rank 0 does with an answer: seconds for who is new or lost, and for who is missing."""
    table.close()
    table.join()
    nodes = table.nodes or ()
    spec = [node_spec(number) for number in range(len(nodes))]
    roster = Roster(0)
    roster.update(nodes)
    return {
        "roster_seconds": _each(lambda: roster.update(nodes)),
        "missing_seconds": _each(lambda: readiness.missing(nodes, spec)),
    }


def node_spec(rank: int) -> NodeSpec:
    """A node's description, of which only the rank counts here."""
    return NodeSpec(rank, f"nid{rank:06}", "", 1, Gpus(), 0, 0, "")


def _each(work: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(_ASKS):
        work()
    return (time.process_time() - began) / _ASKS


def main() -> None:
    """Print the figures as JSON."""
    keeper.become_subreaper()
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    with tempfile.TemporaryDirectory(prefix="table-") as made:
        figures = measure(rows, Path(made))
    print(json.dumps({"machine": report.machine(), **figures}, indent=2))


if __name__ == "__main__":
    main()
