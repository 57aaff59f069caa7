"""The list of bad hosts: by cluster, the last reason counts, several writers, and what is no list."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayhpc.errors import RayhpcError
from rayhpc.model import BadHost
from rayhpc.records import bad_hosts
from rayhpc.records.bad_hosts import Entry

ALPHA = {"SLURM_JOB_ID": "1", "SLURM_CLUSTER_NAME": "alpha"}
BETA = {"SLURM_JOB_ID": "1", "SLURM_CLUSTER_NAME": "beta"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "bad-hosts.json"


def test_each_cluster_has_its_own_and_the_last_reason_counts(state: Path) -> None:
    assert bad_hosts.remember(ALPHA, [BadHost("a", "late", 1.0), BadHost("b", "lost", 2.0)]) == []
    assert bad_hosts.remember(BETA, [BadHost("a", "killed", 3.0)]) == []
    assert bad_hosts.remember(ALPHA, [BadHost("a", "lost again", 4.0)]) == []
    assert bad_hosts.every() == [
        Entry("slurm/alpha", "b", "lost", 2.0),
        Entry("slurm/beta", "a", "killed", 3.0),
        Entry("slurm/alpha", "a", "lost again", 4.0),
    ]
    assert state.stat().st_mode & 0o077 == 0


def test_outside_of_a_job_and_without_bad_hosts_nothing_is_written(state: Path) -> None:
    assert bad_hosts.remember({}, [BadHost("a", "late", 1.0)]) == bad_hosts.remember(ALPHA, []) == []
    assert not state.exists()
    assert bad_hosts.every() == []


def test_hosts_are_forgotten_of_one_cluster_or_of_all() -> None:
    for environ in (ALPHA, BETA):
        bad_hosts.remember(environ, [BadHost("a", "late", 1.0), BadHost("b", "late", 1.0)])
    assert [entry.cluster for entry in bad_hosts.forget("slurm/beta", ["a", "x"])] == ["slurm/beta"]
    assert [entry.cluster for entry in bad_hosts.forget("", ["a"])] == ["slurm/alpha"]
    assert [entry.host for entry in bad_hosts.every()] == ["b", "b"]


def test_runs_that_end_at_once_lose_nothing() -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: bad_hosts.remember(ALPHA, [BadHost(f"h{n}", "late", float(n))]), range(24)))
    assert done == [[]] * 24
    assert [entry.host for entry in bad_hosts.every()] == [f"h{n}" for n in range(24)]


@pytest.mark.parametrize("content", ["no JSON", "{}\n[]", json.dumps([{"host": "a"}])])
def test_what_is_no_list_is_left_alone_and_ends_no_run(state: Path, content: str) -> None:
    state.parent.mkdir()
    state.write_text(content)
    (problem,) = bad_hosts.remember(ALPHA, [BadHost("a", "late", 1.0)])
    assert f"{state} is no list of bad hosts" in problem
    with pytest.raises(RayhpcError, match="the list of bad hosts cannot be used"):
        bad_hosts.every()
    assert state.read_text() == content
