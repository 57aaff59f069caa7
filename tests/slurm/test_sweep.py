"""A sweep in the shipped Slurm script, requeued or killed on all hosts: no trial is lost or run twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .slurm_cluster import SlurmCluster
from .test_jobscript import SCRIPT, active, until_quiet, write

pytestmark = pytest.mark.slurm

# The first three trials end at once; the others wait for a file, which comes in the job's second life.
TRIAL = """
import os, sys, time
number = int(os.environ["RAYHPC_TRIAL_ID"].split("-")[0])
with open("started", "a") as log: log.write(f"{number}\\n")
while number >= 3 and not os.path.exists("go"): time.sleep(0.1)
with open("ended", "a") as log: log.write(f"{number}\\n")
"""


@pytest.mark.timeout(300)
def test_a_walltime_with_requeue(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    write(tmp_path, "trial.py", TRIAL)
    write(tmp_path, "sweep.yaml", "command: [python, trial.py]\nsamples: 12\n")
    words = ("-m", "rayhpc", "sweep", "run", "sweep.yaml", "--resume")
    env = active(mpich_python, RAYHPC_GRACE="45")
    job = slurm_cluster.sbatch("-N2", "-t", "1", SCRIPT, *words, cwd=tmp_path, env=env)
    job.wait_state("RUNNING", timeout=60)
    assert job.wait_state("PENDING", "COMPLETED", "FAILED", timeout=90) == "PENDING", job.output
    first = (tmp_path / "ended").read_text().split()
    assert first.count("0") == first.count("1") == first.count("2") == 1 and len(first) == 3
    write(tmp_path, "go", "")
    until_quiet(slurm_cluster)
    job.start_now()
    ended = job.wait(90)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "SIGUSR1 passed on to" in ended.output and "12 of 12 trials" in ended.output
    assert_each_once(tmp_path, 12)
    slurm_cluster.assert_nothing_left(15)


@pytest.mark.timeout(300)
def test_all_of_it_is_killed(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """SIGKILL to every process on every host, in the middle; the next job does exactly the rest."""
    write(tmp_path, "trial.py", TRIAL)
    write(tmp_path, "sweep.yaml", "command: [python, trial.py]\nsamples: 20\n")
    words = ("-m", "rayhpc", "sweep", "run", "sweep.yaml", "--resume")
    job = slurm_cluster.sbatch("-N2", "--no-requeue", SCRIPT, *words, cwd=tmp_path, env=active(mpich_python))
    job.wait_output("3/20", 90)
    job.cancel("--signal=KILL", "--full")
    assert job.wait(60).exit_code != 0
    until_quiet(slurm_cluster)
    write(tmp_path, "go", "")
    ended = slurm_cluster.sbatch("-N2", SCRIPT, *words, cwd=tmp_path, env=active(mpich_python)).wait(120)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert_each_once(tmp_path, 20)
    slurm_cluster.assert_nothing_left(15)


def assert_each_once(directory: Path, trials: int) -> None:
    assert sorted(map(int, (directory / "ended").read_text().split())) == list(range(trials))
    results = directory.glob("rayhpc-sweeps/sweep/trials/*/result.json")
    assert [json.loads(file.read_text())["state"] for file in results] == ["done"] * trials
