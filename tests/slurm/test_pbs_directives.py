"""The #PBS lines of the shipped scripts, read by a scheduler: Debian's slurm-wlm-torque gives Slurm a qsub.

It checks the directives and not PBS's behaviour: that is what tests/standin is for.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.launch import skip

from .slurm_cluster import Job, SlurmCluster
from .test_jobscript import COUNT, active, nodes_of, write

pytestmark = pytest.mark.slurm

QSUB = Path("/usr/bin/qsub")
SCRIPTS = Path(__file__).resolve().parents[2] / "jobscripts"


@pytest.fixture(autouse=True)
def qsub_over_slurm() -> None:
    if not QSUB.exists():
        skip("no /usr/bin/qsub; apt-get install slurm-wlm-torque")


def submit(cluster: SlurmCluster, directory: Path, *words: str | Path, **env: str) -> Job:
    done = cluster.sh("ctl", QSUB, *words, cwd=directory, env=env)
    found = re.search(r"^(\d+)", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    job = Job(cluster, found[1], directory)
    return Job(cluster, found[1], Path(job.show()["StdOut"]))


@pytest.mark.parametrize("script", ["pbs.pbs", "theta.pbs"])
def test_directives(slurm_cluster: SlurmCluster, tmp_path: Path, script: str) -> None:
    job = submit(slurm_cluster, tmp_path, "-h", SCRIPTS / script)
    shown = job.show()
    job.cancel()
    assert shown["JobName"] == "rayhpc"
    assert shown["TimeLimit"] == "01:00:00"
    assert shown["NumNodes"].partition("-")[0] == "4"


def test_flags_win(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """Name and time only: with `-l select=2` or `-l nodes=2` this qsub still made a job of four hosts."""
    job = submit(slurm_cluster, tmp_path, "-h", "-l", "walltime=00:10:00", "-N", "other", SCRIPTS / "pbs.pbs")
    shown = job.show()
    job.cancel()
    assert (shown["JobName"], shown["TimeLimit"]) == ("other", "00:10:00")


def test_without_a_hosts_file(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """Slurm's qsub makes none; one host is what is left, and the driver's code is the job's."""
    driver = write(tmp_path, "count.py", COUNT)
    env = {**active(mpich_python), "RAYHPC_DRIVER": str(driver), "RAYHPC_LAUNCH": "env"}
    job = submit(slurm_cluster, tmp_path, "-V", SCRIPTS / "pbs.pbs", **env)
    ended = job.wait(120)
    assert ended.exit_code == 7, ended.output
    assert len(nodes_of(ended.output)) == 1
