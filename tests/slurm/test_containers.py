"""The shipped Slurm script with RAYHPC_CONTAINER, on two hosts: Charliecloud runs an image that is built from Debian.

The image has Debian's Python, and neither MPI nor Slurm; Ray and rayhpc are this repository's, which is bound into it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.launch import REPOSITORY, skip

from .slurm_cluster import SlurmCluster
from .test_jobscript import SCRIPT, WAIT, active, nodes_of, write

pytestmark = pytest.mark.slurm

# Which Python, which packages: the driver sees the image, and the cluster has both hosts.
COUNT = """
import json, os, sys, ray
ray.init(log_to_driver=False)
nodes = [(node["NodeManagerHostname"], node["NodeManagerAddress"], node["Resources"]["CPU"]) for node in ray.nodes()]
print("NODES", json.dumps(sorted(nodes)), flush=True)
where = ray.remote(lambda: (sys.executable, os.path.exists("/usr/bin/srun")))
there = ray.get(where.options(label_selector={"rayhpc-rank": "1"}).remote())
print("INSIDE", *there, os.environ["RAYHPC_DEADLINE"], flush=True)
sys.exit(7)
"""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's Python with what Ray's wheels link to; unpacked, nothing of it was run: 20 seconds."""
    if missing := [name for name in ("ch-run", "mmdebstrap") if not shutil.which(name)]:
        skip(f"missing: {' '.join(missing)}; apt-get install charliecloud-runtime mmdebstrap")
    if sysconfig.get_python_version() != "3.11":
        skip("the image has Debian 12's Python 3.11, and this environment's packages are another's")
    made = tmp_path_factory.mktemp("image") / "debian"
    packages = "python3,bash,dash,coreutils,procps,libstdc++6,libgomp1"
    words = ("--quiet", "--variant=extract", "--format=directory", f"--include={packages}")
    subprocess.run(["mmdebstrap", *words, "bookworm", made], check=True, timeout=200)
    for name in ("passwd", "group", "hosts", "resolv.conf"):  # over which Charliecloud mounts the host's
        (made / "etc" / name).touch()
    return made


def contained(cluster: SlurmCluster, python: Path, image: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose jobs run in the image, with our packages and the working copy bound into it."""
    packages = python.parents[1] / "lib" / "python3.11" / "site-packages"
    state = Path(cluster.environment["RAYHPC_STATE_DIR"])
    state.mkdir(mode=0o700, exist_ok=True)
    return {
        **active(python),
        "RAYHPC_CONTAINER": str(image),
        "RAYHPC_CONTAINER_BINDS": f"{REPOSITORY} {python.parents[1]}",
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{packages}",
        **more,
    }


@pytest.mark.parametrize("mpi", [False, True], ids=["no MPI", "MPI from outside"])
def test_two_hosts_and_the_exit_code(
    mpi: bool, slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path, image: Path
) -> None:
    """mpi4py loads any library of MPICH's ABI, and srun's PMI comes in by an open file."""
    library = mpich_python.parents[1] / "lib" / "libmpi.so.12"
    way = {"MPI4PY_LIBMPI": str(library)} if mpi else {"RAYHPC_RENDEZVOUS": "slurm"}
    driver = write(tmp_path, "count.py", COUNT)
    env = contained(slurm_cluster, mpich_python, image, **way)
    ended = slurm_cluster.sbatch("-N2", SCRIPT, driver, cwd=tmp_path, env=env).wait(150)
    assert (ended.state, ended.exit_code) == ("FAILED", 7), ended.output
    assert [name for name, _, _ in nodes_of(ended.output)] == ["node1", "node2"]
    assert f"srun --mpi={'pmi2' if mpi else 'none'} " in ended.output
    (inside,) = [line.split() for line in ended.output.splitlines() if line.startswith("INSIDE ")]
    assert inside[1:3] == ["/usr/bin/python3", "False"]
    assert float(inside[3]) > 1e9, "the end of the job is not known in the image"
    (entrance,) = (tmp_path / "rayhpc-runs" / "containers").glob("*/python")
    assert f"enter ch-run {image} " in entrance.read_text()
    slurm_cluster.assert_nothing_left()


def test_a_cancelled_job_leaves_nothing(
    slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path, image: Path
) -> None:
    driver = write(tmp_path, "wait.py", WAIT)
    env = contained(slurm_cluster, mpich_python, image, RAYHPC_RENDEZVOUS="slurm")
    job = slurm_cluster.sbatch("-N2", SCRIPT, driver, cwd=tmp_path, env=env)
    job.wait_output("driver up", 90)
    job.cancel()
    ended = job.wait(60)
    assert ended.state == "CANCELLED", ended.output
    assert "driver got 15" in ended.output
    slurm_cluster.assert_nothing_left()


def test_an_image_that_is_not_there(
    slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path, image: Path
) -> None:
    nowhere = image.with_name("nowhere")
    env = contained(slurm_cluster, mpich_python, nowhere, RAYHPC_CONTAINER_RUNTIME="charliecloud")
    ended = slurm_cluster.sbatch("-N2", SCRIPT, "train.py", cwd=tmp_path, env=env).wait(60)
    assert ended.exit_code == 78, ended.output
    assert f"rayhpc: there is no image {nowhere}  [node1]" in ended.output
