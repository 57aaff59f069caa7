"""The registry with a scheduler: from the login node a cluster is seen and entered; its end is known, with its host."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .slurm_cluster import SlurmCluster, poll
from .test_jobscript import active, write

pytestmark = pytest.mark.slurm

HOLD = """#!/bin/bash
exec srun --mpi=pmi2 --cpu-bind=none --kill-on-bad-exit=1 python -m rayhpc.start --num-cpus=1 --hold
"""
# The GCS answers whoever reaches it and has the token; a ray.init() would want a raylet on its own host.
ASK = """
import os
from ray._raylet import GcsClient
print(len(GcsClient(address=os.environ["RAY_ADDRESS"]).get_all_node_info(timeout=20)))
"""

Cluster = Callable[..., "subprocess.CompletedProcess[str]"]


def listed(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster("list", "--json").stdout)
    return found


def test_a_cluster_from_the_login_node(slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path) -> None:
    env = active(mpich_python, RAYHPC_STATE_DIR=str(tmp_path / "state"))

    def cluster(*words: str) -> subprocess.CompletedProcess[str]:
        argv = (str(mpich_python), "-m", "rayhpc", "cluster", *words)
        return slurm_cluster.sh("ctl", *argv, cwd=tmp_path, env=env, timeout=120, check=False)

    script = write(tmp_path, "hold.sh", HOLD)
    job = slurm_cluster.sbatch("-N2", "--no-requeue", script, cwd=tmp_path, env=env)
    job.wait_output("holding the cluster", 120)
    (seen,) = poll(lambda: listed(cluster) or None, 30, lambda: "no entry")
    assert (seen["state"], seen["nodes"], seen["host"]) == ("alive", 2, "node1")
    assert (seen["scheduler"], seen["batch_job_id"]) == ("slurm", job.number)
    assert cluster("address", job.number).stdout == f"{seen['address']}\n"
    entered = cluster("attach", "--", "python", "-c", ASK)
    assert (entered.returncode, entered.stdout) == (0, "2\n"), entered.stderr

    slurm_cluster.kill("node1")
    assert [found["state"] for found in listed(cluster)] in (["alive"], ["unknown"])  # it was there a moment ago
    slurm_cluster.sh("ctl", "scancel", job.number)
    past = time.time() - 600
    os.utime(tmp_path / "state" / "clusters" / seen["id"] / "heartbeat", (past, past))
    is_gone = lambda: next((found for found in listed(cluster) if found["state"] == "gone"), None)  # noqa: E731
    assert poll(is_gone, 60, lambda: str(listed(cluster)))["why"].startswith("its job has ended (CANCELLED)")
    assert cluster("forget", "--gone").stderr == f"{seen['id']} forgotten\n"
    assert listed(cluster) == []
