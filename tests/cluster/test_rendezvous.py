"""Ranks that meet without MPI, with real Ray on this host: two terminals, and --rendezvous."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rayhpc.host.network import free_port
from tests.launch import Job, Jobs, until

pytestmark = pytest.mark.cluster

COUNT = "import ray,sys; ray.init(log_to_driver=False); print('nodes', len(ray.nodes())); sys.exit(7)"
UNTIL_GO = """
import pathlib, sys, time
print('driver up', flush=True)
while not pathlib.Path('go').exists():
    time.sleep(0.05)
sys.exit(7)
"""
# Deadlines for a loaded machine, which cost a quiet one nothing.
COMING = 200.0
PATIENT = {"RAYHPC_NUM_CPUS": "1", "RAYHPC_TIMEOUT": str(COMING)}


class Terminals:
    """`rayhpc node head` and `rayhpc node worker`, each in a directory of its own."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.state = jobs.directory / "state"
        self.port = free_port("here")

    def _open(self, name: str, *words: str, **more: str) -> Job:
        env = {"RAYHPC_STATE_DIR": str(self.state), **PATIENT, **more}
        return self._jobs.start_raw(self._jobs.mpi.python, "-m", "rayhpc", "node", *words, env=env, name=name)

    def head(self, *words: str) -> Job:
        return self._open("head", "head", "--port", str(self.port), *words)

    def worker(self, *words: str) -> Job:
        return self._open("worker", "worker", "--head", f"127.0.0.1:{self.port}", *words)

    def of_a_script(self, role: str) -> Job:
        """As a script for `ray start` says where the head is."""
        return self._open(role, role, RAY_HEAD_IP="127.0.0.1", RAY_HEAD_PORT=str(self.port))

    def secrets(self) -> list[Path]:
        return [path for path in self.state.rglob("*") if path.is_file()]


@pytest.fixture
def terminals(jobs: Jobs) -> Terminals:
    return Terminals(jobs)


def test_the_head_first(terminals: Terminals) -> None:
    """The worker is started by the very command that the head prints."""
    head = terminals.head("--nodes", "2", "--", "python", "-c", COUNT)
    told = head.until(r"in the other terminal: rayhpc node (worker --head \S+:\d+ --token-file (\S+))\n", 60)
    (secret,) = terminals.secrets()
    assert (str(secret), secret.stat().st_mode & 0o777) == (told[2], 0o600)
    assert secret.read_text().strip() not in head.output()
    worker = terminals._open("worker", *told[1].split())
    assert head.wait(COMING) == 7, head.output()
    assert worker.wait(30) == 0, worker.output()
    assert "nodes 2\n" in head.output()
    assert "rank 1 of 2" in worker.output()
    assert "the head has ended the run" in worker.output()
    assert terminals.secrets() == []
    assert head.record("outcome.json")["code"] == 7


def test_the_worker_first_and_the_end_of_the_head_ends_it(terminals: Terminals) -> None:
    """Held without a driver; then the head's process is killed, and cannot tell anybody."""
    worker = terminals.worker()
    worker.until(rf"waiting \d+ s for rank 0: .*\n.* rayhpc node head --port {terminals.port} -- DRIVER\n", 60)
    head = terminals.head()
    head.until("holding the cluster until a signal", COMING)
    os.kill(head.process.pid, signal.SIGKILL)
    assert worker.wait(30) == 73, worker.output()
    assert "the head is lost: rank 0 has ended  [rank 1 on " in worker.output()
    assert "next: " in worker.output()


def test_the_end_of_a_worker_costs_no_run(terminals: Terminals) -> None:
    head, worker = terminals.head("--", "python", "-c", UNTIL_GO), terminals.worker()
    head.until("driver up", COMING)
    os.kill(worker.process.pid, signal.SIGKILL)
    head.until("LOST rank 1 on .*; the run goes on with 1 node", 5)  # the heart-beat alone would take 12 s
    (head.directory / "go").touch()
    assert head.wait(60) == 7, head.output()


def test_ctrl_c_in_the_workers_terminal_ends_all_in_order(terminals: Terminals) -> None:
    """Of a cluster whose terminals have found each other by the variables of other scripts."""
    head, worker = terminals.of_a_script("head"), terminals.of_a_script("worker")
    head.until("holding the cluster until a signal", COMING)
    assert f"rayhpc node worker --head 127.0.0.1:{terminals.port}" in head.output()
    assert {node["address"] for node in head.record("cluster.json")["nodes"]} == {"127.0.0.1"}
    worker.process.send_signal(signal.SIGINT)
    assert head.wait(60) == 0, head.output()
    assert worker.wait(30) == 0, worker.output()
    assert "ended by SIGINT" in head.output()


def test_bad_input_is_told_before_anybody_waits(terminals: Terminals) -> None:
    head = terminals.head("--", "no_such_driver.py")
    assert head.wait(60) == 127, head.output()
    assert "the driver no_such_driver.py was not found" in head.output()
    assert "waiting" not in head.output()


def test_a_worker_whose_head_never_comes(terminals: Terminals) -> None:
    worker = terminals.worker("--timeout", "1")
    assert worker.wait(60) == 72, worker.output()
    report = worker.output()[worker.output().index("rayhpc: ") :].splitlines()
    assert report[0].startswith("rayhpc: rank 0 has not come within 1 s  [")
    assert report[1].endswith(f"rendezvous/{terminals.port} is not there yet")
    assert report[2] == f"  next: on 127.0.0.1: rayhpc node head --port {terminals.port} -- DRIVER"
    assert report[3].startswith("  exit code 72: ")


def test_a_head_whose_worker_never_comes(terminals: Terminals) -> None:
    head = terminals.head("--timeout", "1", "--nodes", "3")
    assert head.wait(60) == 72, head.output()
    assert "2 of 3 ranks have not come within 1 s" in head.output()
    assert "next: in 2 other terminals: rayhpc node worker --head " in head.output()
    assert terminals.secrets() == []


def test_a_file_of_ones_own_launcher(jobs: Jobs) -> None:
    file = jobs.directory / "meeting"
    words = [jobs.mpi.python, "-m", "rayhpc.start", "--rendezvous=file", "--", "python", "-c", COUNT]
    ranks = []
    for rank in ("1", "0"):
        env = {"RAYHPC_RANK": rank, "RAYHPC_SIZE": "2", "RAYHPC_RENDEZVOUS_FILE": str(file), **PATIENT}
        ranks.append(jobs.start_raw(*words, env=env, name=f"rank{rank}"))
    assert ranks[1].wait(COMING) == 7, ranks[1].output()
    assert "nodes 2\n" in ranks[1].output()
    assert (ranks[0].wait(30), ranks[0].output()) == (0, "")
    assert until(lambda: not file.exists(), 1)


def test_an_address_that_all_know(jobs: Jobs) -> None:
    """The first to listen there is rank 0."""
    words = [jobs.mpi.python, "-m", "rayhpc.start", "--rendezvous=tcp", "--", "python", "-c", COUNT]
    env = {
        "RAYHPC_SIZE": "2",
        "RAYHPC_HEAD": f"127.0.0.1:{free_port('here')}",
        "RAYHPC_STATE_DIR": str(jobs.directory / "state"),
        **PATIENT,
    }
    started = [jobs.start_raw(*words, env=env, name=f"process{number}") for number in range(2)]
    ended = {job.wait(COMING): job.output() for job in started}
    assert set(ended) == {0, 7}, ended
    assert "nodes 2\n" in ended[7]
    assert ended[0] == ""
