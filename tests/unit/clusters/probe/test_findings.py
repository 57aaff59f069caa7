"""What is said of a probe's rows: the table, and what is not well."""

from __future__ import annotations

from typing import Any

import pytest

from rayhpc.clusters.probe.findings import COLUMNS, Expected, findings, rows
from rayhpc.finding import Verdict

GIB = 2**30


def node(rank: int = 0, host: str = "a", **changes: Any) -> dict[str, Any]:
    """A node that is well."""
    made: dict[str, Any] = {
        "id": "f" * 56, "rank": str(rank), "host": host, "address": "10.0.0.1", "cpus_given": 8.0, "gpus_given": 4.0,
        "versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}, "broken": {}, "devices": 4,
        "torch_devices": 4, "disk_free": 50 * GIB, "disk_total": 100 * GIB, "shm_free": GIB // 2, "shm_total": GIB,
        "network": {"from": "1", "rate": 1234.5, "bytes": 64},
    }  # fmt: skip
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


SILENT = {"versions": None, "broken": None, "devices": None, "torch_devices": None, "disk_free": None}


def found(nodes: list[dict[str, Any]], nodes_wanted: int = 2, gpus: float = 8.0) -> list[str]:
    """A line each: the check, the place, what, and the evidence."""
    seen = findings(Expected(nodes_wanted, gpus), nodes)
    assert all(each.next_step and each.verdict is Verdict.FAIL for each in seen)
    return [": ".join(filter(None, (each.id, each.where, each.what, *each.evidence))) for each in seen]


def test_all_is_well() -> None:
    nodes = [node(), node(1, "b")]
    assert findings(Expected(2, 8.0), nodes) == []
    assert rows("run", nodes)[1] == (
        "run", "1", "b", "8", "4 of 4", "3.11.7", "2.60.0", "2.13.0", "50.0G", "0.5G", "1234",
    )  # fmt: skip
    assert len(rows("run", nodes)[0]) == len(COLUMNS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"error": "GetTimeoutError: x", **SILENT}, ["node-answers: rank 1 on b: it ran no task: GetTimeoutError: x"]),
        ({"broken": {"torch": "OSError: libcuda"}}, ["imports: rank 1 on b: import torch fails: OSError: libcuda"]),
        ({"versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.9.0"}},
         ["versions: torch differs: 2.13.0: rank 0 on a: 2.9.0: rank 1 on b"]),
        ({"versions": {"python": "3.12.1", "ray": "2.60.0"}},
         ["versions: python differs: 3.11.7: rank 0 on a: 3.12.1: rank 1 on b",
          "versions: torch differs: 2.13.0: rank 0 on a: none: rank 1 on b"]),
        ({"devices": 2, "torch_devices": 2}, ["gpu-count: b: 4 GPUs were given to Ray, and the driver has 2",
                                             "gpu-torch: rank 1 on b: 4 GPUs were given to Ray, and torch sees 2"]),
        ({"devices": 4, "torch_devices": 0}, ["gpu-torch: rank 1 on b: 4 GPUs were given to Ray, and torch sees 0"]),
        ({"gpus_given": 3.0}, ["nodes-alive: 7 of 8 GPUs are in the cluster"]),
        ({"disk_free": GIB}, ["temp-dir: rank 1 on b: the disk of Ray's session is full: 1.0G free"]),
        ({"network": {"from": "0", "error": "TimeoutError: late"}},
         ["transfer: rank 1 on b: no transfer from rank 0: TimeoutError: late"]),
        ({"rank": "", "broken": {"numpy": "x"}}, ["imports: rank ? on b: import numpy fails: x"]),
    ],
)  # fmt: skip
def test_what_is_not_well(changes: dict[str, Any], expected: list[str]) -> None:
    changed = node(**{"rank": 1, "host": "b", **changes})
    assert found([node(), changed]) == expected
    assert len(rows("run", [changed])[0]) == len(COLUMNS)


def test_a_lost_node() -> None:
    assert found([node()]) == ["nodes-alive: 1 of 2 nodes are alive"]


def test_nodes_of_one_host_share_its_gpus() -> None:
    pair = [node(rank, gpus_given=2.0, torch_devices=2) for rank in (0, 1)]
    assert found(pair, gpus=4.0) == []
    assert found([{**each, "devices": 3} for each in pair], gpus=4.0) == [
        "gpu-count: a: 4 GPUs were given to Ray, and the driver has 3"
    ]


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({"gpus_given": 0.0, "devices": 0, "torch_devices": None}, "0"),
        ({"gpus_given": 0.0, "devices": 2, "torch_devices": None}, "2 of 0"),
        ({"gpus_given": 2.0, "devices": 4, "torch_devices": 2}, "2 of 2"),
        (SILENT, "? of 4"),
    ],
)
def test_gpus_seen_and_given(changes: dict[str, Any], cell: str) -> None:
    assert rows("run", [node(**changes)])[0][COLUMNS.index("GPUS")] == cell
