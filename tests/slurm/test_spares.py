"""Spares and bad hosts on four hosts of a real Slurm, by `rayhpc alloc` on its login node."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

COUNT = "import ray; ray.init(log_to_driver=False); print('driver up on', len(ray.nodes()))"
# A worker's parent is its node's raylet.
KILLS = """
import os, socket, sys, time
import ray

ray.init(log_to_driver=False)
on = lambda rank, what: ray.remote(num_cpus=0, max_retries=0, label_selector={"rayhpc-rank": rank})(what).remote()
on("1", lambda: os.kill(os.getppid(), 9))
end = time.monotonic() + 100
while not any(node["Alive"] and node["Labels"].get("rayhpc-rank") == "2" for node in ray.nodes()):
    if time.monotonic() > end:
        sys.exit("no spare came")
    time.sleep(0.1)
print("a task ran on", ray.get(on("2", lambda: socket.gethostname()), timeout=60))
"""


@pytest.fixture
def rayhpc(
    slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `rayhpc …` on the login node, with a home directory and a list of bad hosts of the test's own."""
    (tmp_path / "home").mkdir()

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(tmp_path / "home"), "RAYHPC_STATE_DIR": str(tmp_path / "state"), **variables}
        argv = (mpich_python, "-m", "rayhpc", *words)
        return slurm_cluster.sh("ctl", *argv, cwd=tmp_path, env=env, check=False, timeout=150)

    return run


def test_a_bad_host_and_a_lost_node_are_replaced(
    rayhpc: Callable[..., subprocess.CompletedProcess[str]], slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The check finds node2 bad and the run does without; the next job leaves it out, loses a node, and is whole."""
    alloc = partial(rayhpc, "alloc")
    (tmp_path / "count.py").write_text(COUNT)
    (tmp_path / "kills.py").write_text(KILLS)
    asked = ("submit", "slurm", "-N2", "--spares", "1", "-t5")

    for host in ("node1", "node3"):
        slurm_cluster.sh(host, "mkdir", "/dev/shm/alone")
    done = alloc(*asked, "--check=exclude", "--", "count.py", RAYHPC_TEMP_DIR="/dev/shm/alone")
    job = done.stdout.strip()
    code, output = alloc("wait", job).returncode, alloc("logs", job).stdout
    for host in ("node1", "node3"):
        slurm_cluster.sh(host, "rmdir", "/dev/shm/alone")
    assert code == 0, output
    assert "driver up on 2\n" in output
    assert "; exit code 0; bad host: node2 (temp-dir: " in output

    (entry,) = json.loads(alloc("bad", "--json").stdout)
    assert (entry["cluster"].partition("/")[0], entry["host"]) == ("slurm", "node2")
    done = alloc(*asked, "--exclude-bad", "--directive", "--no-requeue", "--", "kills.py")
    assert f"left out: node2, bad on {entry['cluster']} before" in done.stderr
    job = done.stdout.strip()
    code, output = alloc("wait", job).returncode, alloc("logs", job).stdout
    assert code == 0, output
    assert "a task ran on node4\n" in output
    assert re.search(r"LOST rank 1 on node3: .*; rank 2 on node4 takes its place; 0 spare ranks left", output), output
    assert "rank 2 on node4 has taken the place of rank 1 on node3: 2/2 Ray nodes" in output
    shown = rayhpc("runs", "show").stdout
    assert re.search(r"^replaced   rank 1 on node3 at [\d:]{8}: by rank 2 on node4$", shown, re.MULTILINE), shown
    assert [entry["host"] for entry in json.loads(alloc("bad", "--json").stdout)] == ["node2", "node3"]
    assert alloc("bad", "--forget", "node2", "--forget", "node3").returncode == 0
    assert json.loads(alloc("bad", "--json").stdout) == []
