"""A cluster grows and shrinks, with real Ray on this host: nodes join by the program that a second job would run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch import Job, Jobs, registry_in, until

pytestmark = pytest.mark.cluster

# Counts the nodes, and works elsewhere than on the guest all the while.
WORK = """
import pathlib, ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0.5, max_retries=0)
def tick():
    time.sleep(0.2)
    return 1
seen, done = set(), 0
while not pathlib.Path("go").exists():
    done += sum(ray.get([tick.remote() for _ in range(2)]))
    now = sum(node["Alive"] for node in ray.nodes())
    if now not in seen:
        print("alive", now, flush=True)
    seen = {now}
print("done", done > 0, flush=True)
"""


def grown(jobs: Jobs, state: dict[str, str], run: str, name: str, *words: str) -> Job:
    argv = [jobs.mpi.python, "-m", "rayhpc.start", "--join", run, "--num-cpus=1", *words]
    return jobs.start_raw(*argv, env=state, name=name)


def entered(state: dict[str, str], run: str) -> dict[str, object]:
    file = Path(state["RAYHPC_STATE_DIR"], "clusters", run, "cluster.json")
    found: dict[str, object] = json.loads(file.read_text())
    return found


def test_a_node_joins_leaves_at_its_own_end_and_tasks_elsewhere_go_on(jobs: Jobs, tmp_path: Path) -> None:
    state = registry_in(tmp_path / "shared")
    job = jobs.start("--num-cpus=1", "--", "python", "-c", WORK, ranks=2, env=state)
    job.until("alive 2", 120)
    run = job.run.name
    assert until(lambda: Path(state["RAYHPC_STATE_DIR"], "clusters", run).exists(), 30)
    end = time.time() + 60
    guest = grown(jobs, state, run, "guest", f"--deadline={end:.0f}", "--grace=15")
    guest.until("at work for the cluster until ", 120)
    job.until("1 node joined: 3 Ray nodes", 30)
    job.until("alive 3", 30)
    assert until(lambda: entered(state, run)["nodes"] == 3, 30)
    assert guest.wait(90) == 0, guest.output()
    assert time.time() < end
    assert "1 of 1 node left in order" in guest.output()
    job.until("1 node left: 2 Ray nodes", 30)
    job.until("alive 3(.|\n)*alive 2", 30)
    assert until(lambda: entered(state, run)["nodes"] == 2, 30)
    (line,) = entered(state, run)["guests"]  # type: ignore[misc]
    assert re.fullmatch(rf"{guest.run.name}\.0 at \S+, 1 CPUs, 0 GPUs: since \S+ until \S+", line)
    killed = grown(jobs, state, run, "killed")
    killed.until("at work for the cluster", 120)
    os.kill(killed.process.pid, signal.SIGKILL)
    job.until("left: 2 Ray nodes(.|\n)*left: 2 Ray nodes", 60)
    last = grown(jobs, state, run, "last")
    last.until("at work for the cluster", 120)
    (job.directory / "go").touch()
    assert job.wait(60) == 0, job.output()
    assert "done True" in job.output()
    assert last.wait(30) == 0, last.output()
    assert re.search(r"the cluster at \S+ has ended; shut down in .* exit code 0", last.output())
    stages = [event["stage"] for event in job.events()]
    assert [stages.count("joined"), stages.count("left")] == [3, 2]
    shown = subprocess.run(
        [jobs.mpi.python, "-m", "rayhpc", "runs", "show", str(job.run)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.count("\nguest ") == 3, shown.stdout


def test_the_head_ends_while_a_node_joins(jobs: Jobs, tmp_path: Path) -> None:
    state = registry_in(tmp_path / "shared")
    job = jobs.start("--hold", "--num-cpus=1", ranks=1, env=state)
    job.until("holding the cluster", 120)
    assert until(lambda: Path(state["RAYHPC_STATE_DIR"], "clusters", job.run.name).exists(), 30)
    guest = grown(jobs, state, job.run.name, "guest")
    guest.until("1 rank on 1 host", 60)
    job.process.kill()
    assert guest.wait(60) in (0, 72), guest.output()
    assert re.search(r"the cluster at \S+ (has )?ended", guest.output())
