"""`rayhpc alloc submit --exclude-bad` and `rayhpc alloc bad`, over a Slurm that names its cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayhpc.model import BadHost
from rayhpc.records import bad_hosts
from tests.unit.batch_fakes import Login, login_node


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """A login node of alpha, where two hosts were bad, as one was on beta."""
    login = login_node(tmp_path, monkeypatch)
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    login.fake("sbatch", "echo 17")
    login.fake("qsub", "echo 17.server")
    login.fake("scontrol", 'echo "ClusterName             = alpha"; echo "ClusterNameX = no"')
    in_job = {"SLURM_JOB_ID": "1", "SLURM_CLUSTER_NAME": "alpha"}
    bad_hosts.remember(in_job, [BadHost("node3", "the Ray node was killed by SIGKILL", 1.7e9)])
    bad_hosts.remember(in_job, [BadHost("node4", "limits: only 200 open files are allowed", 1.8e9)])
    bad_hosts.remember({**in_job, "SLURM_CLUSTER_NAME": "beta"}, [BadHost("node9", "late", 1.8e9)])
    return login


def excluded(login: Login) -> list[str]:
    return [word for word in login.calls("sbatch")[-1] if word.startswith("--exclude")]


def test_the_bad_hosts_of_this_cluster_are_left_out(login: Login) -> None:
    done = login.submit("slurm", "--exclude-bad")
    assert (done.exit_code, excluded(login)) == (0, ["--exclude=node3,node4"])
    assert "left out: node3, node4, bad on slurm/alpha before: rayhpc alloc bad" in done.stderr
    assert login.calls("scontrol") == [["show", "config"]]


def test_nobody_is_left_out_unasked(login: Login) -> None:
    assert login.submit("slurm").exit_code == 0
    assert (excluded(login), login.calls("scontrol")) == ([], [])


def test_what_the_user_leaves_out_is_left_out_as_well(login: Login) -> None:
    login.script.write_text(login.script.read_text().replace("#SBATCH --nodes=2", "#SBATCH --nodes=2 -x node1"))
    login.submit("slurm", "--exclude-bad", "--directive", "--exclude=node2")
    assert excluded(login)[-1] == "--exclude=node1,node2,node3,node4"


def test_a_scheduler_without_words_for_it_is_asked_only_for_what_it_can(login: Login) -> None:
    assert login.submit("pbs", "--exclude-bad").exit_code == 0
    bad_hosts.remember({"PBS_JOBID": "1.server"}, [BadHost("x1", "late", 1.0)])
    done = login.submit("pbs", "--exclude-bad")
    assert (done.exit_code, len(login.calls("qsub"))) == (78, 1)
    assert "pbs has no words for hosts that a job shall not get: x1" in done.stderr


def test_a_controller_that_is_down_submits_nothing(login: Login) -> None:
    login.fake("scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
    done = login.submit("slurm", "--exclude-bad")
    assert (done.exit_code, login.calls("sbatch")) == (78, [])
    assert "scontrol refused to name the cluster" in done.stderr


def test_the_list_is_shown_and_cleared(login: Login) -> None:
    rows = login.rayhpc("bad").stdout.splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [
        ["slurm/alpha", "node3"],
        ["slurm/alpha", "node4"],
        ["slurm/beta", "node9"],
    ]
    assert rows[1].endswith("the Ray node was killed by SIGKILL")
    (entry,) = json.loads(login.rayhpc("bad", "--json", "--cluster", "slurm/beta").stdout)
    assert (entry["host"], entry["reason"], entry["at"]) == ("node9", "late", 1.8e9)
    done = login.rayhpc("bad", "--forget", "node3", "--forget", "node7")
    assert done.stderr.splitlines() == ["node3 is off the list of slurm/alpha", "node7 was not on the list"]
    assert login.submit("slurm", "--exclude-bad").exit_code == 0
    assert excluded(login) == ["--exclude=node4"]
