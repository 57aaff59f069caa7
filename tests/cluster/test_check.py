"""`rayhpc cluster check`, and jobs of a file, on a real cluster of two nodes with Ray's dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.test_main_job import _daemon as daemon
from tests.launch import REPOSITORY, Job, Jobs, Mpi, registry_in, until

pytestmark = pytest.mark.cluster

SECRET = "s3cret-of-the-env-file"
OPEN = "anybody-may-see-this"
MOUNT = Path("/tmp/rayhpc-example-settings.json")
HOLD = ("--hold", "--dashboard", "--num-cpus=1", "--memory=500M", "--object-store-memory=100M", "--timeout=280")
Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example, with an .env file; a test that was killed may have left the mount."""
    MOUNT.unlink(missing_ok=True)
    shutil.copytree(REPOSITORY / "examples" / "job", tmp_path / "example")
    (tmp_path / "example" / ".env").write_text(f"WANDB_API_KEY={SECRET}\n")
    return tmp_path / "example"


def environment_of(mpi: Mpi, state: dict[str, str]) -> dict[str, str]:
    """A user's, with this registry."""
    env = {**mpi.environment, **state, "USER": OPEN}
    env.pop("WANDB_API_KEY", None)
    return env


def command_of(mpi: Mpi, state: dict[str, str]) -> Command:
    """`rayhpc …` with this registry."""
    env = environment_of(mpi, state)

    def run(*words: str | Path, **more: str) -> Done:
        argv = [mpi.python, "-m", "rayhpc", *map(str, words)]
        own = {**env, **more}
        return subprocess.run(argv, env=own, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.mark.timeout(900)
def test_a_cluster_is_checked(jobs_with_dashboard: Jobs, tmp_path: Path) -> None:
    state = registry_in(tmp_path)
    rayhpc = command_of(jobs_with_dashboard.mpi, state)
    held = jobs_with_dashboard.start(*HOLD, ranks=2, env=state)
    held.until("holding the cluster", 300)
    all_is_well(rayhpc, held)
    jobs_on_both_nodes_are_heard(rayhpc, tmp_path)
    ctrl_c_ends_the_probe(rayhpc, jobs_with_dashboard.mpi, state)
    a_lost_node_is_a_finding(rayhpc, held)
    held.process.terminate()
    assert held.wait(60) == 0, held.output()


@pytest.mark.timeout(900)
def test_a_cluster_runs_the_jobs_of_files(jobs_with_dashboard: Jobs, example: Path, tmp_path: Path) -> None:
    state = registry_in(tmp_path)
    rayhpc = command_of(jobs_with_dashboard.mpi, state)
    held = jobs_with_dashboard.start(*HOLD, ranks=0, env=state)
    held.until("holding the cluster", 300)
    shown = [
        *the_example_runs(rayhpc, example),
        *a_job_is_stopped(rayhpc, example),
        *broken_files_are_refused(rayhpc, example),
        *a_file_of_another_tool_runs(rayhpc, example),
    ]
    assert not [done for done in shown if SECRET in done.stdout + done.stderr]
    held.process.terminate()
    assert held.wait(60) == 0, held.output()
    no_log_has_the_secret(held)


def all_is_well(rayhpc: Command, held: Job) -> list[Done]:
    done = rayhpc("cluster", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert header[:3] == ["CLUSTER", "RANK", "HOST"]
    assert [row[:2] for row in rows] == [[held.run.name, "0"], [held.run.name, "1"]]
    assert all(float(row[-1]) > 1 for row in rows), rows
    told = r"1 probe on 1 cluster\nrayhpc cluster check: 2 nodes, 1 probe in [\d.]+ s: all is well\n"
    assert re.fullmatch(told, done.stderr), done.stderr
    many = rayhpc("cluster", "check", held.run.name, "--num-jobs", "3", "--json")
    assert many.returncode == 0, many.stdout + many.stderr
    (found,) = json.loads(many.stdout)
    assert (len(found["nodes"]), len(found["seconds"]), found["findings"]) == (2, 3, [])
    assert len({node["versions"]["ray"] for node in found["nodes"]}) == 1
    assert all(node["disk_free"] > 0 and node["shm_free"] > 0 for node in found["nodes"])
    return [done, many]


def jobs_on_both_nodes_are_heard(rayhpc: Command, meeting: Path) -> None:
    """Two jobs that wait for each other, and need a CPU each: every node has one."""
    there = " && ".join(f"[ -e {meeting}/{name} ]" for name in "ab")
    ids = []
    for name in "ab":
        body = f"touch {meeting}/{name}; until {there}; do sleep 0.1; done; echo here is {name}; exit 3"
        done = rayhpc("job", "submit", "--num-cpus", "1", "--", "bash", "-c", body)
        assert done.returncode == 0, done.stderr
        ids.append(done.stdout.strip())
    followed = rayhpc("job", "logs", "-f", ids[1])
    assert "here is b\n" in followed.stdout, followed
    assert rayhpc("job", "wait", *ids).returncode == 3
    for name, job in zip("ab", ids, strict=True):
        done = rayhpc("job", "logs", job)
        assert (f"here is {name}\n" in done.stdout, done.stderr) == (True, ""), done


def ctrl_c_ends_the_probe(rayhpc: Command, mpi: Mpi, state: dict[str, str]) -> None:
    def probes(*states: str) -> set[str]:
        listed = json.loads(rayhpc("job", "list", "--all-statuses", "--json").stdout)
        return {job["id"] for job in listed if job["id"].startswith("check-") and job["status"] in states}

    argv = [mpi.python, "-m", "rayhpc", "cluster", "check"]
    check = subprocess.Popen(argv, env=environment_of(mpi, state), stderr=subprocess.PIPE, text=True)
    assert until(lambda: bool(probes("PENDING", "RUNNING")), 60)
    check.send_signal(signal.SIGINT)
    _, told = check.communicate(timeout=60)
    assert (check.returncode, "Traceback" in told) == (130, False), told
    assert until(lambda: not probes("PENDING", "RUNNING"), 30)
    assert len(probes("STOPPED")) == 1


def the_example_runs(rayhpc: Command, example: Path) -> list[Done]:
    """Its mount is there for it and gone afterwards; its secret is with every process of it, and in no output."""
    planned = rayhpc("job", "submit", "--config", example / "job.yaml", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "WANDB_API_KEY=***" in planned.stdout
    done = rayhpc("job", "submit", "--config", example / "job.yaml", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"count-{OPEN} starts on {os.uname().nodename}\n" in done.stdout
    assert done.stdout.count(f"3 rounds of count-{OPEN}, a key of {len(SECRET)} characters\n") == 1, done.stdout
    assert "1 nodes\n" in done.stdout
    assert not MOUNT.exists()
    listed = rayhpc("job", "list", "--all-statuses", "--json")
    assert "count.py --settings" in listed.stdout
    return [planned, done, listed]


def a_job_is_stopped(rayhpc: Command, example: Path) -> list[Done]:
    """One that ignores SIGTERM, and one that another job's mount stands in the way of."""
    text = (example / "job.yaml").read_text().partition("script:")[2].partition("\n")[2]
    text = "\n".join(line for line in text.splitlines() if not line.startswith("args:"))
    (example / "long.yaml").write_text(f"command: trap '' TERM; cat {MOUNT}; while true; do sleep 1; done\n{text}")
    submitted = rayhpc("job", "submit", "--config", example / "long.yaml")
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    assert until(lambda: '"rounds": 3' in rayhpc("job", "logs", job_id).stdout, 120)
    second = rayhpc("job", "submit", "--config", example / "job.yaml", "--num-cpus", "0", "--follow")
    assert second.returncode == 78, second.stdout + second.stderr
    assert f"the file mount {MOUNT} cannot be put into its place on " in second.stdout
    assert MOUNT.exists()
    stopped = rayhpc("job", "stop", job_id)
    assert stopped.returncode == 0, stopped.stderr
    assert until(lambda: not MOUNT.exists(), 30)
    return [submitted, second, stopped]


def broken_files_are_refused(rayhpc: Command, example: Path) -> list[Done]:
    file = example / "broken.yaml"
    file.write_text(f"command: x\nfile_mount: {SECRET}\nenvironment:\n  A: ${{NOWHERE}}\n")
    wrong = rayhpc("job", "submit", "--config", file)
    assert wrong.returncode == 78
    assert f"{file}:2: unknown key file_mount: is it file_mounts?\n" in wrong.stderr
    assert f"{file}:4: NOWHERE is not set\n" in wrong.stderr
    file.write_text("command: [x\n")
    broken = rayhpc("job", "submit", "--config", file)
    assert (broken.returncode, broken.stdout) == (78, "")
    assert f"{file}:2: broken YAML: " in broken.stderr
    return [wrong, broken]


BACKEND = """
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "labpkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.write("labpkg.py")
        wheel.writestr("labpkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: labpkg\\nVersion: 1.0\\n")
        wheel.writestr("labpkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n")
        wheel.writestr("labpkg-1.0.dist-info/RECORD", "")
    return name
"""
LAB = """
import importlib.metadata, os, sys
import labpkg, ray

@ray.remote
def look():
    return labpkg.VALUE, importlib.metadata.version("labpkg"), len(os.environ["HF_TOKEN"]), "lab" in sys._xoptions

ray.init()
print("task", *ray.get(look.remote()), "driver", labpkg.VALUE, "lab" in sys._xoptions, *sys.argv[1:])
"""


def a_file_of_another_tool_runs(rayhpc: Command, example: Path) -> list[Done]:
    """Its keys, a package for all processes, a secret that the shell has exported, arguments of the command line."""
    (example / "lib").mkdir()
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": build, "backend.py": BACKEND, "labpkg.py": "VALUE = 'installed'\n", "large.bin": "x"}
    for name, text in files.items():
        (example / "lib" / name).write_text(text)
    (example / "lab.py").write_text(LAB)
    (example / "lab.env").write_text(f"HF_TOKEN={SECRET}\n")
    (example / "lab.yaml").write_text(
        "python_script: lab.py\nenv_file: lab.env\nuser_id: grace\npy_executable: python -X lab\nexcludes: ['*.bin']\n"
        f"file_mounts: {{lib: {{to: {MOUNT}, install: true}}}}\nenv_vars: {{HF_TOKEN: '${{HF_TOKEN}}'}}\n"
        f"init_commands: 'ls {MOUNT}'\n"
    )
    words = ("--config", example / "lab.yaml", "--env", "WANDB_API_KEY", "--", "--task", "reach-v0")
    planned = rayhpc("job", "submit", "--dry-run", *words, WANDB_API_KEY=SECRET)
    assert planned.returncode == 0, planned.stderr
    assert "environment  WANDB_API_KEY=***" in planned.stdout
    assert f"{example}/lab.yaml, line 1: python_script is called script here\n" in planned.stderr
    done = rayhpc("job", "submit", "--follow", *words, WANDB_API_KEY=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    setting_up, *rest = done.stdout.splitlines()
    assert setting_up.endswith("Runtime env is setting up.")
    # Ray 2.60 flushes this line after it has begun the program: it may come after the program's first.
    heading = r"Running entrypoint for job job-\w+: python -X lab \./lab\.py --task reach-v0"
    [own] = [line for line in rest if re.fullmatch(heading, line)]
    rest.remove(own)
    assert rest[:3] == ["backend.py", "labpkg.py", "pyproject.toml"]
    assert f"task installed 1.0 {len(SECRET)} True driver installed True --task reach-v0" in rest
    assert not MOUNT.exists()
    listed = rayhpc("job", "list", "--all-statuses", "--json")
    assert [job["user"] for job in json.loads(listed.stdout) if "reach-v0" in job["entrypoint"]] == ["grace"]
    logs = rayhpc("job", "logs")
    assert logs.stdout == done.stdout
    return [planned, done, listed, logs]


def a_lost_node_is_a_finding(rayhpc: Command, held: Job) -> None:
    os.kill(daemon(held, 1, "raylet"), signal.SIGKILL)
    held.until("LOST rank 1 on", 60)
    assert until(lambda: is_told(rayhpc, held), 60)


def is_told(rayhpc: Command, held: Job) -> bool:
    """That a node is missing. Ray's table may have it for seconds more: then its own row says that it does not work."""
    done = rayhpc("cluster", "check", "--timeout", "60")
    assert done.returncode == 78, done.stdout + done.stderr
    missing = f"fail  nodes-alive: 1 of 2 nodes are alive  [{held.run.name}]\n" in done.stderr
    assert missing or "  [rank 1 on " in done.stderr, done.stderr
    return missing


def no_log_has_the_secret(held: Job) -> None:
    """Ray's own logs have the environment of every job: that of OPEN shows that this looks in the right place."""
    with tarfile.open(held.run / "ray-logs.tar.gz") as tar:
        logs = [file.read() for entry in tar if (file := tar.extractfile(entry))]
    texts = [*logs, *(path.read_bytes() for path in held.run.iterdir() if path.is_file())]
    assert [text for text in texts if OPEN.encode() in text]
    assert not [text for text in texts if SECRET.encode() in text]
