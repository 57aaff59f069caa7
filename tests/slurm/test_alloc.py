"""`rayhpc alloc …` on the login node of a real Slurm, from the submission to the exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launch import skip

from .slurm_cluster import SlurmCluster, poll

pytestmark = pytest.mark.slurm

HOSTILE = [
    "a'; echo foo", "two words", "new\nline", 'quo"te', "$(touch x) `touch y` $HOME", "naïve-日本-🙂", "-rf",
    "*?[a]{b,c}", "", "a\r\nb", "\\", "{}",
]  # fmt: skip
# A jobscript that starts nothing but the driver, for what does not need a cluster.
PLAIN = '#!/bin/bash\n#SBATCH --ntasks-per-node=1\n# rayhpc: settings\n# rayhpc: command\nexec "$@"\n'

# What a job finds of what was asked for.
REPORT = "echo $SLURM_JOB_NUM_NODES $RAYHPC_RANKS_PER_HOST; pwd"

Alloc = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def alloc(slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path) -> Alloc:
    """Run `rayhpc alloc …` on the login node, in the test's directory."""
    (tmp_path / "plain.sh").write_text(PLAIN)

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        argv = (str(mpich_python), "-m", "rayhpc", "alloc", *words)
        return slurm_cluster.sh("ctl", *argv, cwd=tmp_path, **{"check": False, "timeout": 120, **options})

    return run


def submit(alloc: Alloc, *words: str, driver: list[str]) -> str:
    """The id of a job with the plain script."""
    done = alloc("submit", "slurm", "--script", "plain.sh", "-t", "5", *words, "--", *driver)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(alloc: Alloc, job: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(alloc("show", job, "--json").stdout)
    return dict(shown["state"])


def wait_state(alloc: Alloc, job: str, wanted: str) -> None:
    poll(lambda: True if state(alloc, job)["state"] == wanted else None, 30, lambda: str(state(alloc, job)))


def test_the_code_of_the_job(alloc: Alloc) -> None:
    job = submit(alloc, "-N", "2", "--name", "seven", driver=["bash", "-c", "echo said; exit 7"])
    waited = alloc("wait", job)
    assert (waited.returncode, waited.stderr) == (7, f"job {job} FAILED, exit code 7: NonZeroExitCode\n")
    assert alloc("logs", job).stdout == "said\n"
    assert state(alloc, job) == {"state": "FAILED", "word": "FAILED", "code": 7, "why": "NonZeroExitCode", "tasks": []}


def test_an_array_ends_with_the_first_code_that_is_not_0(alloc: Alloc) -> None:
    """The last of three ends well; each is a job of its own for Slurm, the last one by the id of the array."""
    wait = "until [ $SLURM_ARRAY_TASK_ID -lt 2 ] || [ -e go ]; do sleep 0.1; done"
    body = f"{wait}; exit $((3 * (2 - SLURM_ARRAY_TASK_ID)))"
    job = submit(alloc, "-N", "1", "--directive", "--array=0-2", driver=["bash", "-c", body])
    poll(lambda: True if "2 FAILED" in state(alloc, job)["word"] else None, 30, lambda: str(state(alloc, job)))
    assert state(alloc, job)["state"] == "RUNNING"
    Path(json.loads(alloc("show", job, "--json").stdout)["submitted_from"], "go").touch()
    waited = alloc("wait", job)
    assert (waited.returncode, waited.stderr.count("(2 FAILED, 1 COMPLETED), exit code 6: task 0")) == (6, 1)
    shown = alloc("show", job).stdout
    for line in ("task 0     FAILED, exit code 6", "task 1     FAILED, exit code 3", "task 2     COMPLETED"):
        assert line in shown


def test_a_signal_is_128_and_its_number(alloc: Alloc) -> None:
    job = submit(alloc, driver=["bash", "-c", "kill -9 $$"])
    assert alloc("wait", job).returncode == 137


def test_list_and_show(alloc: Alloc, slurm_cluster: SlurmCluster) -> None:
    running = submit(alloc, driver=["sleep", "77"])
    waiting = submit(alloc, "--directive", "--begin=now+1hour", driver=["true"])
    ended = submit(alloc, driver=["true"])
    assert alloc("wait", ended).returncode == 0
    wait_state(alloc, running, "RUNNING")
    rows = [line.split("\t") for line in alloc("list").stdout.splitlines()[1:]]
    assert [row[:4] for row in rows] == [
        [running, "slurm", "RUNNING", ""], [waiting, "slurm", "PENDING", ""], [ended, "slurm", "COMPLETED", "0"],
    ]  # fmt: skip
    assert "state      PENDING: BeginTime\n" in alloc("show", waiting).stdout
    assert "driver     sleep 77\n" in alloc("show", running).stdout


def test_logs_are_followed(alloc: Alloc, slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path) -> None:
    job = submit(alloc, driver=["bash", "-c", "echo one; until [ -e go ]; do sleep 0.1; done; echo two; exit 3"])
    with (tmp_path / "followed").open("w") as sink:
        argv = (str(mpich_python), "-m", "rayhpc", "alloc", "logs", "-f", job)
        follower = slurm_cluster.start("ctl", *argv, cwd=tmp_path, stdout=sink)
    try:
        poll(lambda: True if "one\n" in (tmp_path / "followed").read_text() else None, 30, lambda: "no first line")
        assert "two" not in (tmp_path / "followed").read_text()
        (tmp_path / "go").touch()
        assert follower.wait(timeout=60) == 0
    finally:
        follower.kill()
    said = (tmp_path / "followed").read_text()
    assert "one\ntwo\n" in said
    assert said.endswith(f"job {job} FAILED, exit code 3: NonZeroExitCode\n")


def test_cancel(alloc: Alloc, slurm_cluster: SlurmCluster) -> None:
    job = submit(alloc, "-N", "4", driver=["srun", "sleep", "77"])
    wait_state(alloc, job, "RUNNING")
    assert alloc("cancel", job).stderr == f"asked slurm to end {job}\n"
    assert alloc("wait", job).returncode == 143
    assert state(alloc, job)["state"] == "CANCELLED"
    slurm_cluster.assert_nothing_left()
    assert "has ended already: CANCELLED" in alloc("cancel", job).stderr


def test_a_job_that_never_started_can_be_cancelled(alloc: Alloc) -> None:
    job = submit(alloc, "--directive", "--begin=now+1hour", driver=["true"])
    alloc("cancel", job)
    assert alloc("wait", job).returncode == 143


def test_a_refusal(alloc: Alloc) -> None:
    done = alloc("submit", "slurm", "--script", "plain.sh", "-q", "nosuch", "--", "true")
    assert (done.returncode, done.stdout) == (78, "")
    assert "rayhpc: sbatch refused the job\n" in done.stderr
    assert "    exit code: 1\n" in done.stderr
    assert "    sbatch: error: invalid partition specified: nosuch\n" in done.stderr


def test_what_is_asked_for_is_what_slurm_gives(alloc: Alloc, slurm_cluster: SlurmCluster) -> None:
    asked_for = ["-N", "3", "-q", "shared", "--name", "a name", "--directive", "--comment='two words'"]
    job = submit(
        alloc,
        *asked_for,
        "--ranks-per-host",
        "2",
        driver=["bash", "-c", "echo $SLURM_JOB_NUM_NODES $RAYHPC_RANKS_PER_HOST; pwd"],
    )
    assert alloc("wait", job).returncode == 0
    line = slurm_cluster.sh("ctl", "scontrol", "-o", "show", "job", job).stdout
    for word in ("JobName=a name ", "Partition=shared ", "TimeLimit=00:05:00 ", "NumNodes=3 ", "Comment=two words "):
        assert word in line
    record = json.loads(alloc("show", job, "--json").stdout)
    assert Path(record["output"]).read_text() == f"3 2\n{record['submitted_from']}\n"


def test_a_directory_with_slurms_own_signs(alloc: Alloc, tmp_path: Path) -> None:
    job = submit(alloc, "--run-dir", "a%j 'b'", driver=["echo", "said"])
    assert alloc("wait", "--run-dir", "a%j 'b'").returncode == 0
    assert alloc("logs", job, "--run-dir", "a%j 'b'").stdout == "said\n"


def test_both_lives_of_a_requeued_job(alloc: Alloc, slurm_cluster: SlurmCluster) -> None:
    body = 'echo "life ${SLURM_RESTART_COUNT:-0}"; [ -n "${SLURM_RESTART_COUNT:-}" ] || sleep 77; exit 5'
    job = submit(alloc, "--directive", "--requeue", driver=["bash", "-c", body])
    poll(lambda: True if "life 0" in alloc("logs", job).stdout else None, 30, lambda: alloc("logs", job).stderr)
    slurm_cluster.sh("ctl", "scontrol", "requeue", job)
    wait_state(alloc, job, "PENDING")
    # In the second of the requeue slurmd refuses the new life: "Job credential revoked", and the job FAILED with 1.
    slurm_cluster.sh("ctl", "scontrol", "update", f"jobid={job}", "StartTime=now+2")
    assert alloc("wait", job).returncode == 5, alloc("logs", job).stdout
    said = alloc("logs", job).stdout
    assert said.index("life 0") < said.index("life 1")


def test_hostile_words_reach_the_driver(alloc: Alloc, mpich_python: Path) -> None:
    driver = [str(mpich_python), "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *HOSTILE]
    job = submit(alloc, driver=driver)
    assert alloc("wait", job).returncode == 0
    assert json.loads(alloc("logs", job).stdout) == HOSTILE


def test_a_job_submitted_from_a_job_is_its_own(alloc: Alloc, mpich_python: Path, tmp_path: Path) -> None:
    (tmp_path / "inner.sh").write_text(PLAIN.replace("--ntasks-per-node=1", "--nodes=1"))
    inner = [str(mpich_python), "-m", "rayhpc", "alloc", "submit", "slurm", "--script", "inner.sh", "--"]
    report = ["bash", "-c", "echo tasks ${SLURM_NTASKS_PER_NODE:-none}"]
    outer = submit(alloc, "-N", "2", driver=["srun", "-N1", "-n1", *inner, *report])
    assert alloc("wait", outer).returncode == 0, alloc("logs", outer).stdout
    assert alloc("wait").returncode == 0
    assert alloc("logs").stdout == "tasks none\n"


def test_the_end_of_a_job_as_the_job_sees_it(alloc: Alloc, mpich_python: Path) -> None:
    """Slurm 22.05 does not tell it in the environment."""
    program = (
        "import os, time; from rayhpc import schedulers; from rayhpc.schedulers import commands\n"
        "print(commands.deadline(schedulers.SLURM, os.environ, time.time())[0] - time.time())"
    )
    job = submit(alloc, driver=[str(mpich_python), "-c", program])
    assert alloc("wait", job).returncode == 0, alloc("logs", job).stdout
    assert 240 < float(alloc("logs", job).stdout) <= 300


def test_a_slurm_that_does_not_answer(alloc: Alloc) -> None:
    job = submit(alloc, driver=["sleep", "77"])
    done = alloc("list", env={"SLURM_CONF": "/dev/null"})
    assert done.returncode == 78
    assert done.stdout.splitlines()[1].split("\t")[:3] == [job, "slurm", "UNKNOWN"]
    assert "rayhpc: squeue refused to tell the jobs' states\n" in done.stderr
    assert "    squeue: fatal: " in done.stderr


def test_many_jobs_are_one_question(alloc: Alloc, slurm_cluster: SlurmCluster) -> None:
    """The controller counts what it is asked."""
    jobs = [submit(alloc, driver=["true"]) for _ in range(3)]
    before = asked(slurm_cluster)
    assert len(alloc("list").stdout.splitlines()) == len(jobs) + 1
    assert asked(slurm_cluster) - before == 1


def asked(cluster: SlurmCluster) -> int:
    """How often the controller was asked for jobs, all of them or one user's or one."""
    lines = cluster.sh("ctl", "sdiag").stdout.splitlines()
    kinds = ("REQUEST_JOB_INFO ", "REQUEST_JOB_INFO_SINGLE ", "REQUEST_JOB_USER_INFO ")
    return sum(int(line.split("count:")[1].split()[0]) for line in lines if line.strip().startswith(kinds))


# ------------------------------------------------------------------------------------------------ the shipped script


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A driver that notes its words and the number of nodes, and ends with 7."""
    program = tmp_path / "driver.py"
    program.write_text(
        "import json, pathlib, ray, sys\n"
        "ray.init()\n"
        "pathlib.Path('said.json').write_text(json.dumps([sys.argv[1:], len(ray.nodes())]))\n"
        "sys.exit(7)\n"
    )
    return program


def test_the_shipped_script_and_hostile_words(alloc: Alloc, driver: Path) -> None:
    """From the command line of the login node to the driver on a cluster of two hosts, and its code back."""
    done = alloc("submit", "slurm", "-N", "2", "-t", "5", "--", driver.name, *HOSTILE)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert alloc("wait", job, timeout=180).returncode == 7, alloc("logs", job).stdout
    assert json.loads((driver.parent / "said.json").read_text()) == [HOSTILE, 2]
    shown = json.loads(alloc("show", job, "--json").stdout)
    assert [run["code"] for run in shown["runs"]] == [7]


def test_the_workbench_trains_on_two_hosts(
    alloc: Alloc, slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path
) -> None:
    """`rayhpc lab train --on slurm …`: the line of a laptop, with the hosts and the time of a job."""
    small = ["training.train_batch_size_per_learner=200", "training.minibatch_size=100", "training.num_epochs=1"]
    line = ["--on", "slurm", "-N", "2", "-t", "5", "env=CartPole-v1", *small, "stop.iterations=1", "run.output=out"]
    argv = (str(mpich_python), "-m", "rayhpc", "lab", "train", *line)
    done = slurm_cluster.sh("ctl", *argv, cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert alloc("wait", job, timeout=180).returncode == 0, alloc("logs", job).stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["iterations"] == 1
    assert len({node["host"] for node in result["nodes"]}) == 2
    assert sum(node["env_runners"] > 0 for node in result["nodes"]) == 2


def test_cancel_ends_a_job_whose_driver_wants_to_be_run_again(
    alloc: Alloc, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """A driver that answers SIGTERM by a checkpoint and 75: Slurm requeues a cancelled job too, if it is asked to."""
    (tmp_path / "saves.py").write_text(
        "import signal, sys, time\n"
        "def save(signum, frame):\n"
        "    signal.signal(signum, signal.SIG_IGN)\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('driver up', flush=True)\n"
        "time.sleep(600)\n"
    )
    job = alloc("submit", "slurm", "-N", "1", "-t", "15", "--", "saves.py").stdout.strip()
    poll(lambda: True if "driver up" in alloc("logs", job).stdout else None, 90, lambda: alloc("logs", job).stdout)
    assert alloc("cancel", job).returncode == 0
    assert alloc("wait", job).returncode == 75, alloc("logs", job).stdout
    assert state(alloc, job)["state"] == "CANCELLED"
    said = alloc("logs", job).stdout
    assert "the driver asks to be run again" in said
    assert f"not requeued: Slurm itself is ending job {job}" in said


# ------------------------------------------------------------------------------------- PBS's commands, over Slurm


@pytest.fixture
def pbs(alloc: Alloc) -> Alloc:
    """Debian's qsub, qstat and qdel, which translate for Slurm: they know no -x and tell no exit status."""
    if not shutil.which("qsub"):
        skip("qsub is missing: apt-get install slurm-wlm-torque")
    return alloc


def test_the_script_for_pbs_and_hostile_words(pbs: Alloc, driver: Path) -> None:
    """The output comes by our own redirection, and the code by the record of the run."""
    done = pbs("submit", "pbs", "-N", "1", "-t", "5", "--ranks-per-host", "2", "--", driver.name, *HOSTILE)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert pbs("wait", job, timeout=180).returncode == 7, pbs("logs", job).stdout
    assert json.loads((driver.parent / "said.json").read_text()) == [HOSTILE, 2]
    assert "the driver ended with 7" in pbs("show", job).stdout
    assert "rayhpc: " in pbs("logs", job).stdout


def test_what_pbs_does_not_tell_is_not_guessed(pbs: Alloc) -> None:
    done = pbs("submit", "pbs", "--script", "plain.sh", "-N", "1", "-t", "5", "--", "true")
    job = done.stdout.strip()
    waited = pbs("wait", job)
    assert waited.returncode == 78
    assert f"job {job} has ended, and nobody knows its exit code" in waited.stderr


def test_a_refusal_by_qsub(pbs: Alloc) -> None:
    done = pbs("submit", "pbs", "--script", "plain.sh", "-q", "nosuch", "--", "true")
    assert (done.returncode, done.stdout) == (78, "")
    assert "rayhpc: qsub refused the job\n" in done.stderr
    assert "invalid partition specified: nosuch" in done.stderr


def test_cancel_by_qdel(pbs: Alloc, slurm_cluster: SlurmCluster) -> None:
    done = pbs("submit", "pbs", "--script", "plain.sh", "-N", "1", "-t", "5", "--", "sleep", "77")
    job = done.stdout.strip()
    wait_state(pbs, job, "RUNNING")
    assert pbs("cancel", job).stderr == f"asked pbs to end {job}\n"
    poll(lambda: True if state(pbs, job)["state"] == "ENDED" else None, 30, lambda: str(state(pbs, job)))
    slurm_cluster.assert_nothing_left()
