"""The registry with real clusters: seen, entered and ended from the login side, as a user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_main_job import COUNT, NOTE
from tests.launch import Job, Jobs, registry_in, until

pytestmark = pytest.mark.cluster

Command = Callable[..., "subprocess.CompletedProcess[str]"]
_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory into which every account may look: pytest's own would hide what we leave open."""
    path = Path(tempfile.mkdtemp(prefix="rh-state-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def command_of(jobs: Jobs, state: dict[str, str]) -> Command:
    """`rayhpc cluster …` with this registry."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [jobs.mpi.python, "-m", "rayhpc", "cluster", *words]
        env = {**jobs.mpi.environment, **state}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


def states(cluster: Command) -> dict[str, Any]:
    return {found["id"]: found for found in json.loads(cluster("list", "--json").stdout)}


def test_two_clusters_are_listed_entered_stopped_and_killed(jobs: Jobs, place: Path) -> None:
    state = registry_in(place)
    cluster = command_of(jobs, state)
    names = {"left": [], "right": ["--tls"]}
    pair = [jobs.start("--hold", "--num-cpus=1", *more, ranks=2, env=state, name=name) for name, more in names.items()]
    for job in pair:
        job.until("holding the cluster", 120)
    left, right = pair
    assert until(lambda: len(states(cluster)) == 2, 30)
    seen = states(cluster)
    assert {(found["state"], found["nodes"], found["cpus"]) for found in seen.values()} == {("alive", 2, 2.0)}
    assert [seen[job.run.name]["run_dir"] for job in pair] == [str(job.run) for job in pair]
    for job in pair:
        done = cluster("attach", job.run.name, "--", "python", "-c", COUNT)
        assert (done.returncode, done.stdout) == (7, "nodes 2\n"), done.stderr
    closed_to_others(place, Path(seen[left.run.name]["token_file"]))
    stopped(cluster, left, "ended by SIGTERM; exit code 0")
    assert left.wait(30) == 0, left.output()
    assert list(states(cluster)) == [right.run.name]
    right.process.kill()
    right.wait(30)
    assert until(lambda: not list((place / "state" / "clusters").iterdir()), 30)


def closed_to_others(place: Path, token: Path) -> None:
    """Another account of the host sees nothing of the registry, which lies where it can look."""
    if os.geteuid() != 0:
        return
    (place / "control").write_text("seen")
    entry = token.parent
    paths = [place / "control", token, entry / "cluster.json", entry, entry.parent]
    codes = [
        subprocess.run([*_NOBODY, "ls", "-l", path], capture_output=True, check=False).returncode for path in paths
    ]
    assert [code == 0 for code in codes] == [True, False, False, False, False]
    assert [path.stat().st_mode & 0o777 for path in (token, entry / "cluster.json", entry, entry.parent)] == [
        0o600, 0o600, 0o700, 0o700,
    ]  # fmt: skip


def stopped(cluster: Command, job: Job, how: str) -> None:
    """Ended by `rayhpc cluster stop`, which says how, after all was given back."""
    done = cluster("stop", job.run.name[-8:])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{job.run.name}  {how}\n"), job.output()
    assert "the end was asked for by " in job.output()


def test_a_driver_has_the_last_word(jobs: Jobs) -> None:
    job = jobs.start("--", "python", "-c", NOTE, ranks=1)
    job.until("driver up", 120)
    cluster = command_of(jobs, registry_in(job.directory))
    assert until(lambda: job.run.name in states(cluster), 30)
    stopped(cluster, job, "the driver ended with 9; exit code 9")
    assert job.wait(30) == 9, job.output()


@pytest.mark.parametrize("wanted", [True, False], ids=["a file in its place", "--no-register"])
def test_a_run_without_an_entry(jobs: Jobs, wanted: bool) -> None:
    state = jobs.directory / "no-directory"
    if wanted:
        state.write_text("")
    words = [] if wanted else ["--no-register"]
    job = jobs.start(*words, "--", "python", "-c", COUNT, ranks=1, env={"RAYHPC_STATE_DIR": str(state)})
    assert job.wait() == 7, job.output()
    assert job.output().count("WARNING: the registry of clusters") == wanted, job.output()
    assert state.exists() == wanted
