"""Sweeps on real Ray nodes under mpirun: killed and resumed, interrupted, with trials of every kind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launch import Job, Jobs, until

pytestmark = pytest.mark.cluster

SWEEP = ("-m", "rayhpc", "sweep", "run")
PLANTED = """
import os, sys, time
trial = os.environ["RAYHPC_TRIAL_ID"]
with open("started", "a") as log: log.write(trial + "\\n")
lr = float(sys.argv[1])
with open(os.environ["RAYHPC_TRIAL_METRICS"], "a") as out: out.write('{"step": 1, "score": %r}\\n' % -(lr - 0.3) ** 2)
time.sleep(0.5)
"""
PLANTED_YAML = """
command: [python, planted.py, "{lr}"]
space: {lr: {type: uniform, values: [0, 1]}}
metric: score
samples: 20
"""


def write(jobs: Jobs, **files: str) -> Path:
    """A job's directory with these files; `a_b` is called a.b."""
    directory = jobs.directory / "job"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)
    return directory


def results(directory: Path, sweep: str = "sweep") -> dict[int, dict[str, Any]]:
    """The result of each trial that has one."""
    found = directory.glob(f"rayhpc-sweeps/{sweep}/trials/*/result.json")
    return {int(file.parent.name): json.loads(file.read_text()) for file in found}


def started(directory: Path) -> list[int]:
    return [int(line.split("-")[0]) for line in (directory / "started").read_text().split()]


def output(directory: Path, trial: int) -> str:
    return (directory / f"rayhpc-sweeps/sweep/trials/{trial:04d}/output.log").read_text()


def end(job: Job, code: int) -> str:
    assert job.wait(120) == code, job.output()
    return job.output()


def test_killed_in_the_middle_and_resumed(jobs: Jobs) -> None:
    directory = write(jobs, planted_py=PLANTED, sweep_yaml=PLANTED_YAML)
    job = jobs.start(*SWEEP, "sweep.yaml")
    assert until(lambda: len(results(directory)) >= 5, 60), job.output()
    os.kill(job.process.pid, signal.SIGKILL)
    job.wait(30)
    jobs.close()
    ended = until(lambda: not running(directory), 20)
    assert ended, "trials outlive the run"
    before = results(directory)
    assert 5 <= len(before) < 20
    (directory / "started").unlink()
    end(jobs.start(*SWEEP, "sweep.yaml", "--resume"), 0)
    assert sorted(started(directory)) == sorted(set(range(20)) - set(before))
    after = results(directory)
    assert sorted(after) == list(range(20))
    assert all(after[number] == before[number] for number in before)
    assert all(result["state"] == "done" for result in after.values())
    table = (directory / "rayhpc-sweeps/sweep/trials.csv").read_text().splitlines()
    assert len(table) == 21


def running(directory: Path) -> list[int]:
    """Trials' programs that are still there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"planted.py" in entry.read_bytes() and os.readlink(entry.with_name("cwd")) == str(directory):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def test_a_trial_that_no_node_can_hold(jobs: Jobs) -> None:
    write(jobs, sweep_yaml="command: [x]\nresources: {cpus: 1, gpus: 8}\n")
    job = jobs.start(*SWEEP, "sweep.yaml", ranks=2)
    told = end(job, 78)
    assert "no room for 1 process with 1 CPU, 8 GPU each" in told
    at = {event["stage"]: event["at"] for event in job.events()}
    assert at["decided"] - at["driver"] < 5 + 5, "five seconds, and as many for a busy machine"


TASKS = """
tasks:
  fine: sh -c 'echo {\\"reward\\":\\ 7} >> "$RAYHPC_TRIAL_METRICS"'
  crash: sh -c 'echo broken; exit 3'
  nonsense: sh -c 'echo nonsense >> "$RAYHPC_TRIAL_METRICS"'
  stall: sh -c 'echo hello; exec sleep 600'
  leaves: python leaves.py
  missing: ./no-such-program
  waits: sh -c 'until [ -e go ]; do sleep 0.1; done'
  imports: python -c 'import away; print(away.HERE)'
metric: reward
stall: 4
py_modules: [far/away]
"""
LEAVES = """
import os, signal, time
pid = os.fork()
if pid == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(600)
open("left", "w").write(str(pid))
"""


def test_each_kind_of_end_is_told_and_the_others_go_on(jobs: Jobs) -> None:
    directory = write(jobs, sweep_yaml=TASKS, leaves_py=LEAVES)
    (directory / "far/away").mkdir(parents=True)
    (directory / "far/away/__init__.py").write_text("HERE = 'far away'\n")
    job = jobs.start(*SWEEP, "sweep.yaml", ranks=4)
    assert until(lambda: 4 in results(directory), 60), job.output()
    left = int((directory / "left").read_text())
    assert not Path(f"/proc/{left}").exists(), "a trial's setsid child outlives the trial"
    assert job.process.poll() is None, job.output()
    (directory / "go").touch()
    told = end(job, 1)
    found = results(directory)
    assert [found[number]["state"] for number in range(8)] == [
        "done", "failed", "done", "failed", "done", "failed", "done", "done"
    ]  # fmt: skip
    assert found[0]["metrics"] == {"reward": 7}
    assert found[1]["code"] == 3 and output(directory, 1) == "broken\n"
    assert "metrics.jsonl" in found[2]["problems"][0]
    assert found[3]["reason"] == "stalled: no output and no report for 4 s"
    assert "No such file" in found[5]["reason"]
    assert output(directory, 7) == "far away\n"
    assert "8/8" in told and "trial 0001 exit code 3" in told


def test_all_start_together_each_on_its_own_gpu(jobs: Jobs) -> None:
    """The GPUs are only said to be there: two on each node."""
    barrier = "touch here-$RAYHPC_TRIAL_ID; until [ $(ls here-* | wc -l) = 4 ]; do sleep 0.1; done"
    tasks = "".join(f"  t{number}: sh -c 'echo $CUDA_VISIBLE_DEVICES; {barrier}'\n" for number in range(4))
    directory = write(jobs, sweep_yaml=f"tasks:\n{tasks}concurrent: true\nresources: {{cpus: 0.5, gpus: 1}}\n")
    end(jobs.start("--num-gpus", "2", *SWEEP, "sweep.yaml", ranks=2), 0)
    assert sorted(output(directory, number) for number in range(4)) == ["0\n", "0\n", "1\n", "1\n"]


POOR = """
import sys, time
from rayhpc.sweep import report
x = int(sys.argv[1])
report(step=1, score=x)
try:
    while x == 1:
        time.sleep(0.1)
        report(step=1, score=x)
except KeyboardInterrupt:
    print("interrupted")
"""
POOR_YAML = """
command: [python, poor.py, "{x}"]
space: {x: {type: grid, values: [9, 8, 7, 1]}}
search: grid
metric: score
scheduler: median
"""


def test_a_poor_trial_is_interrupted(jobs: Jobs) -> None:
    directory = write(jobs, poor_py=POOR, sweep_yaml=POOR_YAML)
    end(jobs.start(*SWEEP, "sweep.yaml", ranks=4), 0)
    assert [results(directory)[number]["state"] for number in range(4)] == ["done", "done", "done", "pruned"]
    assert output(directory, 3) == "interrupted\n"


MEETS = """
import os, socket
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(where) as server:
        for _ in range(size - 1): server.accept()[0].sendall(b"hello")
else:
    while True:
        try: link = socket.create_connection(where, 30); break
        except ConnectionRefusedError: pass
    assert link.recv(5) == b"hello"
print("met", rank, size, flush=True)
"""


def test_the_processes_of_a_trial_meet(jobs: Jobs) -> None:
    directory = write(
        jobs, meets_py=MEETS, sweep_yaml="command: python meets.py\nprocesses: 3\nnodes: all different\nsamples: 2\n"
    )
    end(jobs.start(*SWEEP, "sweep.yaml", ranks=4), 0)
    assert output(directory, 1) == "met 0 3\n"
    assert {result["state"] for result in results(directory).values()} == {"done"}


SAVES = """
import os, signal, sys, time
place = os.environ["RAYHPC_TRIAL_DIR"] + "/state"
if os.path.exists(place): sys.exit(0)
def save(*_): open(place, "w").close(); sys.exit(75)
signal.signal(signal.SIGUSR1, save)
print("ready", flush=True)
time.sleep(600)
"""


def test_interrupted_before_the_walltime_and_gone_on_with(jobs: Jobs) -> None:
    directory = write(jobs, saves_py=SAVES, sweep_yaml="command: python saves.py\nsamples: 4\n")
    logs = lambda: list(directory.glob("rayhpc-sweeps/sweep/trials/*/output.log"))  # noqa: E731
    job = jobs.start(*SWEEP, "sweep.yaml", ranks=2)
    assert until(lambda: len(logs()) == 2 and all(log.read_text() == "ready\n" for log in logs()), 60), job.output()
    os.kill(job.process.pid, signal.SIGUSR1)
    told = end(job, 75)
    assert "SIGUSR1 passed on to 2 trials" in told
    assert len(list(directory.glob("rayhpc-sweeps/sweep/trials/*/state"))) == 2
    assert results(directory) == {}
    again = jobs.start(*SWEEP, "sweep.yaml", "--resume", ranks=2)
    assert until(lambda: len(logs()) == 4 and results(directory).keys() >= {0, 1}, 60), again.output()
    again.process.send_signal(signal.SIGTERM)
    assert again.wait(60) in (75, 143)


def test_two_sweeps_share_a_cluster_and_many_short_tasks(jobs: Jobs) -> None:
    short = "command: /bin/true\nsamples: 60\n"
    write(
        jobs, a_yaml=f"{short}resources: {{cpus: 0.5}}\n", b_yaml=short,
        both_sh="python -m rayhpc sweep run a.yaml & one=$!\npython -m rayhpc sweep run b.yaml && wait $one\n",
    )  # fmt: skip
    end(jobs.start("sh", "both.sh", ranks=4), 0)
    assert len(results(jobs.directory / "job", "a")) == len(results(jobs.directory / "job", "b")) == 60
