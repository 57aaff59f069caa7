"""`rayhpc alloc grow` and `shrink`, up to the scheduler's commands."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rayhpc.batch import allocations
from rayhpc.records import registry
from tests.unit.batch_fakes import Login, login_node
from tests.unit.making import entry

RUN = entry().id


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    return login_node(tmp_path, monkeypatch)


def grow(login: Login, *words: str) -> tuple[int, str]:
    done = login.rayhpc("grow", "01234567", "--script", str(login.script), *words)
    return done.exit_code, done.stdout if done.exit_code == 0 else done.stderr


def test_the_job_joins_by_the_scheduler_of_the_cluster(login: Login) -> None:
    registry.add(entry(scheduler="slurm", batch_job_id="4"), "t0ken")
    login.fake("sbatch", "echo 5")
    assert grow(login, "-N", "2", "-t", "30") == (0, "5\n")
    (words,) = login.calls("sbatch")
    assert {"--nodes=2", "--time=00:30:00"} <= set(words)
    script = (login.directory / "own.sh").read_text()
    assert f"set -- --join {RUN}\n" in script
    assert "t0ken" not in script
    code, shown = grow(login, "-N", "2", "--dry-run")
    assert (code, f"set -- --join {RUN}\n" in shown) == (0, True)
    assert len(login.calls("sbatch")) == 1


def test_a_cluster_that_is_in_no_job(login: Login) -> None:
    registry.add(entry(), "t0ken")
    code, said = grow(login)
    assert (code, f"no scheduler that rayhpc knows runs the cluster {RUN}" in said) == (78, True)
    assert f"python -m rayhpc.start --join {RUN}" in said
    login.fake("sbatch", "echo 5")
    assert grow(login, "--scheduler", "slurm") == (0, "5\n")


def test_shrink_ends_the_newest_first(login: Login) -> None:
    registry.add(entry(scheduler="slurm", batch_job_id="4"), "t0ken")
    login.fake("scancel", "")
    for job in (5, 6, 7):
        login.fake("sbatch", f"echo {job}")
        assert grow(login)[0] == 0
    assert login.submit().exit_code == 0  # another job, which has joined nothing
    for name in ("squeue", "sacct"):
        login.fake(name, "exit 1")
    assert login.rayhpc("shrink", RUN).exit_code == 0
    assert login.rayhpc("shrink", RUN, "--last", "2").exit_code == 0  # 7 leaves already
    assert login.rayhpc("shrink", RUN, "5").exit_code == 0
    assert login.calls("scancel") == [["7"], ["6", "5"], ["5"]]
    assert login.rayhpc("shrink", RUN).exit_code == 78


def test_a_job_that_has_joined_is_asked_and_not_signalled(login: Login) -> None:
    registry.add(entry(scheduler="slurm", batch_job_id="4"), "t0ken")
    login.fake("sbatch", "echo 5")
    for name in ("squeue", "sacct"):
        login.fake(name, "exit 1")
    assert grow(login)[0] == 0
    (allocation,) = allocations.every("rayhpc-runs")
    run = Path(allocation.run_dir, time.strftime("%Y%m%d-%H%M%S") + "-89abcdef")
    run.mkdir()
    (run / "cluster.json").write_text(json.dumps({"batch_job_id": "5", "nodes": [], "hosts": 1}))
    done = login.rayhpc("shrink", RUN)
    assert (done.exit_code, done.stderr) == (0, "asked job 5 to leave: its nodes finish their work first\n")
    assert (run / "leave").exists()
    assert login.calls("scancel") == []
    done = login.rayhpc("shrink", RUN, "5", "8")
    assert done.exit_code == 78
    assert "there is no allocation 8" in done.stderr
