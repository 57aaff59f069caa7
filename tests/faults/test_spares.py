"""--spares: hosts that wait, and what is done to them. The hosts are names of this one, in namespaces of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from tests.faults.cells import FAULTS, Cell, met
from tests.faults.victims import Victims
from tests.launch import Job, Jobs

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="another host name, in a namespace, needs root"),
]

# As test_restart.py has it: a death is noticed, then a node starts; here on two cores beside two others.
DEATH, START, GIVEN_BACK = 2.0, 20.0, 2.0
# A task on rank N's node for each line "N" of the file `ask`; the file `end` ends it with 5.
DRIVER = """
import os, pathlib, sys, time
import ray

ray.init(log_to_driver=False)
print("driver up", flush=True)
ask, end = pathlib.Path("ask"), time.monotonic() + 300
while time.monotonic() < end and not pathlib.Path("end").exists():
    if ask.exists():
        rank = ask.read_text().strip()
        ask.unlink()
        task = ray.remote(num_cpus=1, label_selector={"rayhpc-rank": rank})(lambda: os.getpid())
        print("a task ran on rank", rank, "in", ray.get(task.remote(), timeout=60), flush=True)
    time.sleep(0.05)
sys.exit(5)
"""
NAMED = 'hostname "$0"; exec "$@"'


class Hosts:
    """A rank on each of several hosts, which meet by a file, so that the end of one ends no other. Rank 0 is `lead`."""

    def __init__(self, jobs: Jobs, count: int, *options: str, first: dict[str, str] | None = None) -> None:
        """first: more variables of rank 1."""
        (jobs.directory / "lead").mkdir()
        (jobs.directory / "lead" / "driver.py").write_text(DRIVER)
        words = [jobs.mpi.python, "-m", "rayhpc.start", "--rendezvous=file", "--num-cpus=1", *options, "driver.py"]
        meeting = {"RAYHPC_SIZE": str(count), "RAYHPC_RENDEZVOUS_FILE": str(jobs.directory / "meeting")}
        started: list[Job] = []
        for rank in range(count - 1, -1, -1):
            name = f"host{rank}" if rank else "lead"
            start = ["unshare", "-u", "sh", "-c", NAMED, name, *words]
            own = (first or {}) if rank == 1 else {}
            started.append(jobs.start_raw(*start, env={**meeting, **own, "RAYHPC_RANK": str(rank)}, name=name))
        self.lead = started[-1]
        self.lead.until("driver up", 120)
        self.victims = Victims(self.lead.run.name)

    def works(self, rank: int) -> None:
        """The rank's node runs a task."""
        (self.lead.directory / "ask").write_text(str(rank))
        self.lead.until(f"a task ran on rank {rank} in", 60)

    def ends(self) -> None:
        """The driver ends as it wants to."""
        (self.lead.directory / "end").touch()
        assert self.lead.wait(60) == 5, self.lead.output()

    @property
    def bad(self) -> list[str]:
        """Whom the record calls bad."""
        entries: list[dict[str, Any]] = self.lead.record("outcome.json")["bad_hosts"]
        return [entry["host"] for entry in entries]


@pytest.mark.quick
def test_a_spare_takes_the_place_of_a_lost_node(jobs: Jobs) -> None:
    """Under the policy that a loss ends the run: a loss that a spare mends is none."""
    hosts = Hosts(jobs, 3, "--spares=1", "--on-node-loss=abort")
    hosts.lead.until("3 ranks on 3 hosts, 1 of them spare", 1)
    hosts.lead.until("2/2 Ray nodes, .*; 1 spare rank waits", 1)
    began = time.monotonic()
    os.kill(hosts.victims.daemon(1, "raylet"), SIGKILL)
    hosts.lead.until("LOST rank 1 on host1: .*; rank 2 on host2 takes its place; 0 spare ranks left", 60)
    noticed = time.monotonic() - began
    hosts.lead.until("rank 2 on host2 has taken the place of rank 1 on host1: 2/2 Ray nodes", 60)
    whole = time.monotonic() - began
    hosts.works(2)
    hosts.ends()
    assert hosts.bad == ["host1"]
    assert "; exit code 5; bad host: host1 (" in hosts.lead.output().splitlines()[-1]
    what = "worker raylet, SIGKILL, --spares=1, abort"
    met(Cell(FAULTS, f"{what}: noticed", "LOST rank 1 on ...; rank 2 on ... takes its place", noticed, DEATH))
    said = "5, the driver's own: 'rank 2 on ... has taken the place of rank 1'; tasks run on it"
    met(Cell(FAULTS, f"{what}: whole again", said, whole, DEATH + START))


def test_spares_that_die(jobs: Jobs) -> None:
    """One while it waits; one while it takes a place, which the last one takes; then there is none left."""
    hosts = Hosts(jobs, 5, "--spares=3", "--on-node-loss=abort")
    os.kill(hosts.victims.rank(2), SIGKILL)
    began = time.monotonic()
    hosts.lead.until("LOST spare rank 2 on host2: .*; 2 spare ranks left", 30)
    noticed = time.monotonic() - began
    met(Cell(FAULTS, "a spare's rank, SIGKILL, while it waits", "LOST spare rank 2 on ...", noticed, DEATH))
    hosts.works(1)

    began = time.monotonic()
    os.kill(hosts.victims.rank(1), SIGKILL)
    hosts.lead.until("LOST rank 1 on host1: .*; rank 3 on host3 takes its place; 1 spare rank left", 30)
    os.kill(hosts.victims.rank(3), SIGKILL)
    hosts.lead.until("LOST rank 3 on host3: .*; rank 4 on host4 takes its place; 0 spare ranks left", 30)
    hosts.lead.until("rank 4 on host4 has taken the place of rank 1 on host1: 2/2 Ray nodes", 60)
    what = "a worker's rank, SIGKILL, and the spare that takes its place, --spares"
    whole = time.monotonic() - began
    said = "the next spare takes the place: '2/2 Ray nodes'"
    met(Cell(FAULTS, what, said, whole, 2 * DEATH + START))
    hosts.works(4)

    began = time.monotonic()
    os.kill(hosts.victims.daemon(4, "raylet"), SIGKILL)
    assert hosts.lead.wait(60) == 74, hosts.lead.output()
    ended = time.monotonic() - began
    record = hosts.lead.record("outcome.json")
    assert (record["code"], hosts.bad) == (74, ["host2", "host1", "host3", "host4"])
    # Ranks that are gone do not answer: rank 0 waits for them a little.
    met(Cell(FAULTS, "worker raylet, SIGKILL, no spare left, abort", "74 NODE_LOST", ended, DEATH + 3 * GIVEN_BACK))


def test_a_host_that_is_late(jobs: Jobs) -> None:
    """Its `ray start` hangs: a spare comes in its place, and the cluster is whole before the driver begins."""
    (slow := jobs.directory / "slow").mkdir()
    (slow / "sitecustomize.py").write_text(SLOW)
    hosts = Hosts(jobs, 3, "--spares=1", "--timeout=20", first={"PYTHONPATH": str(slow)})
    said = "LOST rank 1 on host1: its Ray node was not alive after 20 s; rank 2 on host2 takes its place"
    assert said in hosts.lead.output()
    assert "2/2 Ray nodes" in hosts.lead.output()
    hosts.ends()
    assert hosts.bad == ["host1"]
    what = "a worker's Ray node hangs at its start, --spares=1"
    met(Cell(FAULTS, what, "5, the driver's own: a spare takes its place after --timeout"))


# In the `ray start` of a node alone, which imports ray.scripts.
SLOW = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "ray.scripts.scripts":
            time.sleep(3600)

sys.meta_path.insert(0, Slow())
"""


def test_more_spares_than_hosts(jobs: Jobs) -> None:
    (jobs.directory / "job").mkdir()
    Path(jobs.directory, "job", "driver.py").write_text("print('never')\n")
    job = jobs.start("--spares=1", "driver.py", ranks=2)
    assert job.wait(60) == 78, job.output()
    assert "--spares 1, but there is 1 host" in job.output()
    met(Cell(FAULTS, "--spares as many as hosts", "78: '--spares 1, but there is 1 host'"))
