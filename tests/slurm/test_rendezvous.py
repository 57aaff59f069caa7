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


def test_plain_srun_on_two_hosts(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    write(tmp_path, "count.py", COUNT)
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
