"""What many nodes cost rank 0 alone: python -m benchmarks.nodetable [ROWS] (default: 4000).

A real head, started as rayhpc starts it. Its GCS is told of that many nodes more, a hundred at a time, each a copy of
the head's own row with another id, address and rank; they are never asked whether they live. Then the product's own
NodeTable asks it. Needs grpcio to speak to the GCS: pip install 'rayhpc[dashboard]'. And the plan for as many hosts,
made up from this one.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import processes, report
from benchmarks.contenders import free_port
from benchmarks.floor import end_all, node_of, start, until
from rayhpc import paths
from rayhpc.bootstrap import readiness, resources
from rayhpc.bootstrap.lost_nodes import Roster
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.bootstrap.plan import ClusterPlan, Planner, Proposal
from rayhpc.inside_ray.names import RANK_LABEL
from rayhpc.model import Assignment, Gpus, NodeSpec, Reach
from rayhpc.options import Options
from rayhpc.processes import keeper
from rayhpc.records import run_directory

_ASKS = 10
# Nodes that join at the same time.
_AT_ONCE = 100
# The rows have no raylet behind them: nobody shall look for one.
_PATIENCE = {"RAY_health_check_initial_delay_ms": "100000000"}


def measure(rows: int, directory: Path) -> dict[str, float]:
    """Seconds and CPU seconds with so many rows."""
    run_id = f"table-{secrets.token_hex(4)}"
    spec = node_of(0, run_id)
    version = resources.versions().ray
    own = Assignment(run_id, str(directory), spec.address, 0, 1, version, spec, secrets.token_hex(32))
    node = Node(own, spec, Options())
    node.prepare()
    try:
        os.environ.update(_PATIENCE)
        port = free_port()
        head = start(node, own, port, "")
        address, where = f"{own.head_address}:{port}", paths.node_table(spec.temp_dir)
        alone = NodeTable(address, where)
        alone.start()
        until(lambda: alone.nodes, "the head")
        alone.close()
        began, gcs = time.monotonic(), _cpu(head)
        register(address, own.token, rows)
        joins = {"join_seconds": (time.monotonic() - began) / rows, "join_gcs_cpu": (_cpu(head) - gcs) / rows}
        table = NodeTable(address, where, 0.0)
        table.start()
        until(lambda: len(table.nodes or ()) == rows + 1, "all rows")
        return {"rows": rows + 1, **joins, **_asking(table, head), **_thinking(table), **planning(rows, directory)}
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
        for first in range(1, rows + 1, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, rows + 1))
            asked = [words.RegisterNodeRequest(node_info=_row(pattern, number)) for number in numbers]
            for answer in [service.RegisterNode.future(request, metadata=metadata) for request in asked]:
                answer.result()


def _row(pattern: Any, number: int) -> Any:
    """A copy of the head's row as another node."""
    row = type(pattern)()
    row.CopyFrom(pattern)
    row.node_id, row.is_head_node = secrets.token_bytes(len(pattern.node_id)), False
    row.node_manager_address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    row.node_manager_hostname = row.node_name = f"nid{number:06}"
    row.labels[RANK_LABEL] = str(number)
    return row


def _asking(table: NodeTable, head: subprocess.Popen[bytes]) -> dict[str, float]:
    """One question after the other: seconds of an answer, CPU seconds of this process, `ray start` and GCS for it."""
    _next(table)
    began, own, asked, gcs = time.monotonic(), time.process_time(), _own_cpu(head), _cpu(head)
    for _ in range(_ASKS):
        _next(table)
    spent = {
        "answer_seconds": time.monotonic() - began, "answer_cpu": time.process_time() - own,
        "answer_ray_start_cpu": _own_cpu(head) - asked, "answer_gcs_cpu": _cpu(head) - gcs,
    }  # fmt: skip
    return {name: seconds / _ASKS for name, seconds in spent.items()}


def _next(table: NodeTable) -> None:
    """Wait for another answer."""
    last = table.nodes
    until(lambda: table.nodes is not last, "an answer")


def _own_cpu(head: subprocess.Popen[bytes]) -> float:
    return processes.cpu(Path("/proc"), [head.pid])


def _cpu(head: subprocess.Popen[bytes]) -> float:
    gcs = [pid for pid in keeper.descendants(head.pid) if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return processes.cpu(Path("/proc"), gcs)


def _thinking(table: NodeTable) -> dict[str, float]:
    """What rank 0 does with an answer: seconds for who is new or lost, and for who is missing."""
    table.close()
    nodes = table.nodes or ()
    spec = [node_spec(number) for number in range(len(nodes))]
    roster = Roster(0)
    roster.update(nodes)
    return {
        "roster_seconds": _each(lambda: roster.update(nodes)),
        "missing_seconds": _each(lambda: readiness.missing(nodes, spec)),
    }


def planning(hosts: int, directory: Path) -> dict[str, float]:
    """CPU seconds from the surveys and probes of so many hosts to what each rank is told, and to the written record.

    assignment_bytes: of what one rank is told.
    """
    own = resources.survey(0, Options(), None, "", os.environ)
    surveys = [replace(own, rank=rank, host=f"nid{rank:06}", host_id=str(rank)) for rank in range(hosts)]
    address = own.interfaces[0].address
    reaches = [Reach(rank, f"rank {rank}", {address: address}) for rank in range(hosts)]
    planner = Planner(Options(run_dir=str(directory / "runs"), login_node=True), None, {})
    began = time.process_time()
    proposal = planner.propose(surveys)[0]
    assert isinstance(proposal, Proposal)
    plan, *others = planner.settle(proposal, reaches)
    planned = time.process_time()
    planner.close()
    assert isinstance(plan, ClusterPlan)
    run_directory.write_json(directory / "cluster.json", plan.spec)
    written = time.process_time()
    return {
        "plan_seconds": planned - began, "record_seconds": written - planned,
        "assignment_bytes": len(pickle.dumps(others[-1])),
    }  # fmt: skip


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
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))  # which else would leave the head
    keeper.become_subreaper()
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    with tempfile.TemporaryDirectory(prefix="table-") as made:
        figures = measure(rows, Path(made))
    print(json.dumps({"machine": report.machine(), **figures}, indent=2))


if __name__ == "__main__":
    main()
