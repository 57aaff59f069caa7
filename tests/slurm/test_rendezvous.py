"""srun without any MPI, on two hosts with an address each: --rendezvous=slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from .slurm_cluster import SlurmCluster
from .test_jobscript import COUNT, active, nodes_of, write

pytestmark = pytest.mark.slurm

SCRIPT = """#!/bin/bash
exec srun --mpi=none --nodes=2 --ntasks=2 python -m rayhpc.start --rendezvous=slurm -- python count.py
"""


# As NeMo-RL's: whatever the driver has in its environment is its workers'.
GENEROUS = COUNT.replace(
    "ray.init(log_to_driver=False)",
    'ray.init(log_to_driver=False, runtime_env={"env_vars": dict(os.environ)})\n'
    'there = ray.remote(lambda: 0).options(label_selector={"rayhpc-rank": "1"})\n'
    "ray.get(there.remote(), timeout=60)",
)


def test_plain_srun_on_two_hosts(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """And a driver that gives its whole environment to a task on the other host."""
    write(tmp_path, "count.py", GENEROUS)
    script = write(tmp_path, "plain.sbatch", SCRIPT)
    ended = slurm_cluster.sbatch("-N2", script, cwd=tmp_path, env=active(mpich_python)).wait(120)
    assert (ended.state, ended.exit_code) == ("FAILED", 7), ended.output
    nodes = nodes_of(ended.output)
    assert [name for name, _, _ in nodes] == ["node1", "node2"]
    assert len({address for _, address, _ in nodes}) == 2
    assert list((tmp_path / "rayhpc-runs").glob(".rendezvous-*")) == []
    slurm_cluster.assert_nothing_left()


def test_srun_with_an_mpi_that_does_not_work_names_the_way_without(
    slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path
) -> None:
    script = write(tmp_path, "plain.sbatch", SCRIPT.replace("--rendezvous=slurm ", ""))
    ended = slurm_cluster.sbatch("-N2", script, cwd=tmp_path, env=active(mpich_python)).wait(120)
    assert ended.exit_code == 78, ended.output
    assert ended.output.count("or meet without MPI: --rendezvous=slurm") == 1, ended.output
