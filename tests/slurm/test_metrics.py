"""Metrics of two runs at once on the same two hosts: a real Prometheus beside each head, and what it keeps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.launch import installed, registry_in, skip

from .slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

_SAME_HOSTS = ("-pshared", "-wnode1,node2", "-N2", "--ntasks-per-node=1")
# Two tasks that keep a CPU of each host busy, and a figure of the user's own, until the kept metrics have both.
DRIVER = """
import json, os, ray, subprocess, sys, time
from ray.util.metrics import Gauge
ray.init()
gauge = Gauge("own_figure", description="the user's own")
gauge.set(12.5)

@ray.remote(scheduling_strategy="SPREAD")
def work():
    end = time.time() + 120
    while time.time() < end:
        pass

def rayhpc(*words):
    return subprocess.run([sys.executable, "-m", "rayhpc", *words], stdout=subprocess.PIPE, text=True)

tasks = [work.remote() for _ in range(2)]
query = "ray_own_figure and on() sum(ray_component_cpu_percentage) > 10"
asked = ["runs", "metrics", os.environ["RAYHPC_RUN_DIR"], "--json", "--query", query]
end = time.time() + 120
while time.time() < end and not json.loads(rayhpc(*asked).stdout or "[]"):
    time.sleep(2)
shown = rayhpc("cluster", "metrics", "--grafana", "grafana")
print(shown.stdout)
sys.exit(shown.returncode)
"""


@pytest.fixture(scope="module")
def python() -> str:
    if not shutil.which("prometheus"):
        skip("no prometheus on PATH")
    return installed("dashboard").python


def asked(python: str, run: Path, query: str) -> list[dict[str, Any]]:
    """What the kept metrics answer, from the login node's side."""
    words = [python, "-m", "rayhpc", "runs", "metrics", str(run), "--json", "--query", query]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_two_runs_at_once_keep_their_own_metrics(slurm_cluster: SlurmCluster, python: str, tmp_path: Path) -> None:
    jobs = {}
    for name in ("left", "right"):
        place = tmp_path / name
        place.mkdir()
        (place / "driver.py").write_text(DRIVER)
        exports = " ".join(f"{key}={value}" for key, value in registry_in(place).items())
        start = f"env {exports} srun --mpi=pmi2 {python} -m rayhpc.start --metrics driver.py"
        jobs[name] = slurm_cluster.sbatch(*_SAME_HOSTS, "--cpus-per-task=2", "--wrap", start, cwd=place)
    ends = {name: job.wait(240) for name, job in jobs.items()}
    for name, end in ends.items():
        assert end.exit_code == 0, end.output
        (run,) = (path.resolve() for path in (tmp_path / name / "rayhpc-runs").iterdir() if path.name[:2] == "20")
        kept_by(python, run, jobs[name].number, end.output)
        assert len(os.listdir(tmp_path / name / "grafana" / "dashboards")) > 2
    slurm_cluster.assert_nothing_left()


def kept_by(python: str, run: Path, job: str, output: str) -> None:
    """Series of both hosts of this run alone, the user's own, the figures, and a picture."""
    hosts = sorted(node["host"] for node in json.loads((run / "cluster.json").read_text())["nodes"])
    series = asked(python, run, "sum by (run, host, job) (ray_node_cpu_count)")
    assert sorted(found["labels"]["host"] for found in series) == hosts
    assert {(found["labels"]["run"], found["labels"]["job"]) for found in series} == {(run.name, job)}
    assert [found["value"] for found in asked(python, run, "max(max_over_time(ray_own_figure[1h]))")] == [12.5]
    figures = json.loads((run / "outcome.json").read_text())["metrics"]
    assert sorted(figures["peak_memory"]) == hosts
    assert 0 < figures["cpu_hours_used"] <= figures["cpu_hours_granted"]
    assert "CPU hours used" in output
    assert "prometheus http://127.0.0.1:" in output
    drawn = subprocess.run(
        [python, "-m", "rayhpc", "runs", "metrics", str(run)], capture_output=True, text=True, timeout=60, check=False
    )
    assert drawn.returncode == 0, drawn.stderr
    assert Path(drawn.stdout.strip()).read_bytes().startswith(b"\x89PNG")
