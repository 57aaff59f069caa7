"""The examples with real Ray under real mpiexec on this host."""

from __future__ import annotations

import csv
import os
import re
import signal
from pathlib import Path
from statistics import mean

import pytest

from tests.launch import REPOSITORY, Job, Jobs, until

pytestmark = pytest.mark.cluster


def iterations(metrics: Path) -> list[int]:
    if not metrics.exists():
        return []
    with metrics.open(newline="") as lines:
        return [int(record["iteration"]) for record in csv.DictReader(lines) if record["iteration"]]


def driver_of(job: Job, name: str) -> int:
    """The pid of the job's driver."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and f"RAYHPC_RUN_ID={job.run.name}".encode() in environment_of(entry):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"python") and any(name.encode() in word for word in words[1:4]):
                return int(entry.name)
    pytest.fail(f"no driver {name}:\n{job.output()}")


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def test_hello_from_every_node(jobs: Jobs) -> None:
    job = jobs.start(str(REPOSITORY / "examples/hello.py"), ranks=3)
    assert job.wait() == 0, job.output()
    assert len(set(re.findall(r"hello from node (\w+)", job.output()))) == 3


def test_the_minimal_example_goes_on_where_it_was_stopped(jobs: Jobs) -> None:
    words = [str(REPOSITORY / "examples/ppo_minimal.py")]
    job = jobs.start(*words, ranks=2)
    metrics = job.directory / "ppo-minimal/metrics.csv"
    assert until(lambda: len(iterations(metrics)) >= 2, 120), job.output()
    os.kill(driver_of(job, "ppo_minimal"), signal.SIGUSR1)
    assert job.wait() == 75, job.output()
    # Nothing stands between the bootstrap's lines and the example's own: Ray's alarm about arguments is not one.
    assert "object store" not in job.output()
    before = iterations(metrics)
    job.run.rename(job.directory / "first")
    job = jobs.start(*words, ranks=2)
    assert until(lambda: len(iterations(metrics)) > len(before), 120), job.output()
    os.kill(driver_of(job, "ppo_minimal"), signal.SIGUSR1)
    assert job.wait() == 75, job.output()
    assert iterations(metrics) == list(range(1, len(iterations(metrics)) + 1))
    assert f"which has {len(before)} iterations" in job.output()


def test_grpo_waits_for_gpus_learns_and_goes_on_where_it_was_stopped(jobs: Jobs) -> None:
    """Four workers on two nodes with two GPUs each, which are pretended."""
    words = ["--num-gpus", "2", "--num-cpus", "1", "-m", "rayhpc.examples.grpo.train"]
    job = jobs.start(*words, "--gpus-per-node", "3", "--gpu-timeout", "1", ranks=2)
    assert job.wait() == 2, job.output()
    assert re.search(r"2 nodes with 3 free GPUs .* within 1 s; GPUs of the nodes: \S+ 2, \S+ 2;", job.output())
    job.run.rename(job.directory / "too many")
    words += ["--gpus-per-node", "2", "--stop-reward", "0.8", "--resume"]
    job = jobs.start(*words, ranks=2)
    job.until(r"iteration +21 ", 200)
    os.kill(driver_of(job, "grpo"), signal.SIGUSR1)
    assert job.wait() == 75, job.output()
    before = rewards(job)
    assert len(before) > 20
    job.run.rename(job.directory / "first")
    job = jobs.start(*words, ranks=2)
    assert job.wait(280) == 0, job.output()
    after = rewards(job)
    assert f"goes on from grpo-results/checkpoint-{len(before):06}.pt" in job.output()
    assert after[: len(before)] == before
    assert mean(after[-10:]) >= 0.8 > mean(before[:5]) + 0.1
    assert not list(job.directory.glob("grpo-results/.partial*"))


def rewards(job: Job) -> list[float]:
    """One of each iteration, of all runs so far."""
    lines = (job.directory / "grpo-results/rewards.csv").read_text().splitlines()
    return [float(line.partition(",")[2]) for line in lines[1:]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_long_iteration_is_abandoned(jobs: Jobs, number: signal.Signals, code: int) -> None:
    """Ctrl-C in the middle of an iteration of minutes: the driver ends by itself, within its 8 s."""
    words = ["-m", "rayhpc.examples.train_ppo", "--train-batch-size", "400000", "--output", "ppo"]
    job = jobs.start(*words, ranks=2)
    job.until(r"iteration +steps", 120)
    job.process.send_signal(number)
    assert job.wait(20) == code, job.output()
    assert "would outlast --stop-timeout 8: abandoned" in job.output()
    assert "ended (" in job.output()
