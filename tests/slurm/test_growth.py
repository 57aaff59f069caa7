"""`rayhpc alloc grow` and `shrink` on a real Slurm: a second job's host joins a held cluster and leaves in order."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .slurm_cluster import SlurmCluster, poll
from .test_jobscript import active, write

pytestmark = pytest.mark.slurm

HOLD = """#!/bin/bash
exec srun --mpi=pmi2 --cpu-bind=none --kill-on-bad-exit=1 python -m rayhpc.start --num-cpus=1 --hold
"""


def test_a_cluster_grows_and_shrinks(slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path) -> None:
    env = active(mpich_python, RAYHPC_STATE_DIR=str(tmp_path / "state"), RAYHPC_NUM_CPUS="1")

    def rayhpc(*words: str) -> subprocess.CompletedProcess[str]:
        argv = (str(mpich_python), "-m", "rayhpc", *words)
        return slurm_cluster.sh("ctl", *argv, cwd=tmp_path, env=env, timeout=120, check=False)

    def entry() -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(rayhpc("cluster", "list", "--json").stdout)
        return found[0] if found else {}

    script = write(tmp_path, "hold.sh", HOLD)
    first = slurm_cluster.sbatch("-N2", "--no-requeue", script, cwd=tmp_path, env=env)
    first.wait_output("holding the cluster", 120)
    poll(lambda: entry() or None, 30, lambda: "no entry")
    done = rayhpc("alloc", "grow", first.number, "-N", "2", "-t", "30")
    assert done.returncode == 0, done.stderr
    second = done.stdout.strip()
    said = lambda: f"{entry()}\n{rayhpc('alloc', 'logs', second).stdout}"  # noqa: E731
    poll(lambda: entry().get("nodes") == 4 or None, 90, said)
    done = rayhpc("alloc", "shrink", first.number)
    assert (done.returncode, done.stderr) == (0, f"asked job {second} to leave: its nodes finish their work first\n")
    poll(lambda: entry().get("nodes") == 2 or None, 60, said)
    rayhpc("alloc", "wait", second)
    assert "2 of 2 nodes left in order" in rayhpc("alloc", "logs", second).stdout
    assert all(" until " in line for line in entry()["guests"])
    assert len(entry()["guests"]) == 2
    assert rayhpc("cluster", "stop", first.number).returncode == 0
    slurm_cluster.assert_nothing_left()
