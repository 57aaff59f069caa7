"""--restart-nodes: a worker's node that was lost is started again in its place, and the driver works on it."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from signal import SIGKILL, SIGSTOP, Signals

import pytest

from tests.faults.cells import FAULTS, Cell, met
from tests.faults.victims import Victims
from tests.launch import REPOSITORY, Jobs, until

pytestmark = pytest.mark.cluster

# Up to 64 nodes: a death is noticed in 2 s, a hang in 15 s; then a node starts.
DEATH, HANG = 2.0, 15.0
START = 20.0
GIVEN_BACK = 2.0
WAIT = "import ray, time; ray.init(log_to_driver=False); print('driver up', flush=True); time.sleep(600)"
DRIVER = """
import os, sys, time
import ray

def alive():
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

ray.init(log_to_driver=False)
first, end = alive(), time.monotonic() + 100
print("driver up", flush=True)
while not (alive() - first and len(alive()) == len(first)):
    if time.monotonic() > end:
        sys.exit("no other node came")
    time.sleep(0.05)
task = ray.remote(num_cpus=1, label_selector={"rayhpc-rank": "1"})(lambda: os.getpid())
print("a task ran on the new node in", ray.get(task.remote(), timeout=60), flush=True)
sys.exit(5)
"""


@pytest.mark.parametrize(
    "signum", [pytest.param(SIGKILL, marks=pytest.mark.quick, id="KILL"), pytest.param(SIGSTOP, id="STOP")]
)
def test_the_cluster_is_whole_again(jobs: Jobs, signum: Signals) -> None:
    """Under the policy that a loss ends the run: a loss that is mended is none."""
    job = jobs.start("--restart-nodes=1", "--on-node-loss=abort", "--", "python", "-c", DRIVER, ranks=2)
    job.until("driver up", 90)
    began = time.monotonic()
    os.kill(Victims(job.run.name).daemon(1, "raylet"), signum)
    job.until(r"LOST rank 1 on \S+: .*; its node is started again \(1 of 1\)", 60)
    noticed = time.monotonic() - began
    job.until(r"rank 1 on \S+ is back: 2/2 Ray nodes", 60)
    back = time.monotonic() - began
    assert job.wait(90) == 5, job.output()
    what = f"worker raylet, {Signals(signum).name}, --restart-nodes=1"
    said = "5, the driver's own: 'rank 1 on ... is back: 2/2 Ray nodes'; tasks run on the new node"
    met(Cell(FAULTS, f"{what}: noticed", "LOST rank 1 on ...", noticed, _bound(signum)))
    met(Cell(FAULTS, f"{what}: whole again", said, back, _bound(signum) + START))


def _bound(signum: Signals) -> float:
    return DEATH if signum == SIGKILL else HANG


def test_a_node_that_is_lost_too_often(jobs: Jobs) -> None:
    """What is lost once more than --restart-nodes allows is lost, and the policy decides."""
    job = jobs.start("--restart-nodes=1", "--on-node-loss=abort", "--", "python", "-c", WAIT, ranks=2)
    job.until("driver up", 90)
    victims = Victims(job.run.name)
    os.kill(victims.daemon(1, "raylet"), SIGKILL)
    job.until(r"is back: 2/2 Ray nodes", 60)
    began = time.monotonic()
    os.kill(victims.daemon(1, "raylet"), SIGKILL)
    assert job.wait(60) == 74, job.output()
    what = "worker raylet, SIGKILL twice, --restart-nodes=1, abort"
    met(Cell(FAULTS, what, "74 NODE_LOST", time.monotonic() - began, DEATH + GIVEN_BACK))


def test_ppo_trains_on(jobs: Jobs) -> None:
    """RLlib replaces the env runners of a node that was lost: the example loses steps, not its training."""
    example = str(REPOSITORY / "examples/train_ppo.py")
    words = [
        "--restart-nodes=1",
        example,
        "--stop-iterations=8",
        "--stop-return=1e9",
        "--train-batch-size=1000",
        "--output=ppo",
    ]
    job = jobs.start(*words, ranks=3)
    metrics = job.directory / "ppo/metrics.csv"
    assert until(lambda: _iterations(metrics) >= 2, 150), job.output()
    os.kill(Victims(job.run.name).daemon(2, "raylet"), SIGKILL)
    job.until(r"rank 2 on \S+ is back: 3/3 Ray nodes", 90)
    assert job.wait(240) == 0, job.output()
    assert _iterations(metrics) == 8
    what = "worker raylet, SIGKILL, under PPO with --restart-nodes=1"
    met(Cell(FAULTS, what, "0: examples/train_ppo.py goes on, with env runners on the new node"))


def _iterations(metrics: Path) -> int:
    return len(list(csv.DictReader(metrics.open()))) if metrics.exists() else 0
