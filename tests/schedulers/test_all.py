"""The same things asked of every scheduler. `python -m tests.schedulers.table` makes docs/schedulers.md from this file.

The first line of a test's docstring is the thing that it asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.launch import until

from .sites import ALL, ROOT, GridEngine, OnVirtualHosts, Site, Slurm, StandIn, opened

EVERY = tuple(ALL)
ARGUMENTS = ["a'; echo foo", "two words", "new\nline", 'quo"te', "$HOME `id`", "größe", "*", "--timeout", "\\", ""]
COLOUR = "export COLOUR='light blue'\n# rayhpc: settings"
FIRST = """
import json, os, ray, sys
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False)
nodes = ray.nodes()
seen = ray.remote(num_cpus=0)(lambda: os.environ.get("COLOUR"))
tasks = [seen.options(scheduling_strategy=On(node["NodeID"], False)).remote() for node in nodes]
hosts = sorted(node["NodeManagerHostname"] for node in nodes)
told = {"hosts": hosts, "argv": sys.argv[1:], "colours": ray.get(tasks), "cwd": os.getcwd()}
print("TOLD", json.dumps(told), flush=True)
sys.exit(7)
"""
# Answers the scheduler's signal by 75, as one that has written a checkpoint.
SAVES = """
import signal, sys, time
def save(signum, frame):
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    print("driver got", signal.Signals(signum).name, flush=True)
    sys.exit(75)
for name in (signal.SIGINT, signal.SIGTERM):
    signal.signal(name, save)
open("up", "w").close()
time.sleep(600)
"""
# Writes a checkpoint when it is told that the end is near, and goes on from it.
RESUMES = """
import json, os, signal, sys, time
def save(signum, frame):
    left = float(open(os.environ["RAYHPC_DEADLINE_FILE"]).read()) - time.time()
    with open("checkpoint", "w") as file:
        json.dump({"life": os.environ["RAYHPC_RESTARTS"], "left": left}, file)
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
if os.path.exists("checkpoint"):
    print("resumed", open("checkpoint").read(), "in life", os.environ["RAYHPC_RESTARTS"], flush=True)
    sys.exit(0)
time.sleep(600)
"""
# Names a host that is not its own, and ends when Ray finds a node dead.
LOSES = """
import os, ray, socket, sys, time
ray.init(log_to_driver=False)
with open("other.part", "w") as file:
    file.write(min({node["NodeManagerHostname"] for node in ray.nodes()} - {socket.gethostname()}))
os.rename("other.part", "other")
end = time.monotonic() + 100
while all(node["Alive"] for node in ray.nodes()):
    if time.monotonic() > end:
        sys.exit("no node is dead")
    time.sleep(0.2)
sys.exit(9)
"""
PLAIN = '#!/bin/bash\n# rayhpc: settings\n# rayhpc: command\nexec "$@"\n'
GRACE = 40


def of(*names: str) -> Any:
    """Ask these schedulers: all of a module's tests ask one before the next."""
    marks = {"real": pytest.mark.slurm, "stand-in": pytest.mark.cluster}
    asked = [pytest.param(name, marks=marks[ALL[name].kind]) for name in names]
    return pytest.mark.parametrize("site", asked, indirect=True, scope="module")


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    name = request.param
    real = ALL[name].kind == "real"
    cluster = request.getfixturevalue("session_cluster") if real else None
    python = request.getfixturevalue("mpich_python")
    with opened(name, cluster, tmp_path_factory.mktemp(name), python) as made:
        yield made


@dataclass(frozen=True)
class First:
    """The first job: two ranks on each of two hosts, by `rayhpc alloc submit`, with a driver that ends with 7."""

    site: Site
    job: str
    ended: Any

    @property
    def said(self) -> str:
        return self.site.alloc("logs", self.job).stdout

    @property
    def told(self) -> dict[str, Any]:
        (line,) = [line for line in self.said.splitlines() if line.startswith("TOLD ")]
        found: dict[str, Any] = json.loads(line[5:])
        return found


@pytest.fixture(scope="module")
def first(site: Site) -> First:
    here = site.at("first")
    own = here.work / f"own{here.script.suffix}"
    own.write_text(here.script.read_text().replace("# rayhpc: settings", COLOUR))
    flags = ("-N", "2", "-t", "5", "--ranks-per-host", "2", "--script", own.name)
    job = here.submit(*flags, "--", here.driver(FIRST), *ARGUMENTS)
    ended = here.alloc("wait", job, seconds=180)
    return First(here, job, ended)


@of(*EVERY)
def test_exit_code(first: First) -> None:
    """the driver's exit code is the job's"""
    assert first.ended.returncode == 7, first.said + first.ended.stderr
    first.site.assert_nothing_left(10)


@of(*EVERY)
def test_ranks(first: First) -> None:
    """two ranks on each of two hosts are four Ray nodes"""
    hosts = first.told["hosts"]
    assert len(hosts) == 4, hosts
    if isinstance(first.site, OnVirtualHosts):
        assert [hosts.count(host) for host in set(hosts)] == [2, 2], hosts
    if isinstance(first.site, StandIn):
        assert first.site.started_on(first.job) == first.site.others


@of(*EVERY)
def test_arguments(first: First) -> None:
    """any arguments reach the driver as they are"""
    assert first.told["argv"] == ARGUMENTS


@of(*EVERY)
def test_environment(first: First) -> None:
    """what the script sets reaches the ranks on all hosts"""
    assert first.told["colours"] == ["light blue"] * 4


@of(*EVERY)
def test_records(first: First) -> None:
    """`rayhpc alloc` lists the job, shows how it ended, and keeps its output"""
    rows = [line.split("\t") for line in first.site.alloc("list").stdout.splitlines()[1:]]
    assert [first.job, first.site.name, "FAILED", "7"] in [row[:4] for row in rows], rows
    shown = json.loads(first.site.alloc("show", first.job, "--json").stdout)
    assert (shown["state"]["state"], shown["state"]["code"]) == ("FAILED", 7), shown
    assert "TOLD " in Path(shown["output"]).read_text()
    assert first.told["cwd"] == str(first.site.work)


@of(*EVERY)
def test_cancel_by_rayhpc(site: Site) -> None:
    """`rayhpc alloc cancel` ends a job, which is CANCELLED then"""
    here = site.at("plain")
    (here.work / "plain.sh").write_text(PLAIN)
    words = ("bash", "-c", "echo said; exec sleep 77")
    job = here.submit("-t", "5", "--script", "plain.sh", "--", *words)
    assert until(lambda: "said" in here.alloc("logs", job).stdout, 60), here.alloc("show", job).stdout
    rows = [line.split("\t") for line in here.alloc("list").stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [[job, here.name, "RUNNING"]]
    assert here.alloc("cancel", job).returncode == 0
    assert here.alloc("wait", job).returncode != 0
    assert json.loads(here.alloc("show", job, "--json").stdout)["state"]["state"] == "CANCELLED"
    assert "has ended already" in here.alloc("cancel", job).stderr


@of(*EVERY)
def test_cancel(site: Site) -> None:
    """cancelled by the scheduler's own command: the driver can save, nothing is left, and nothing goes on"""
    assert_cancelled(site.at("cancel"))


def assert_cancelled(here: Site) -> None:
    job = here.by_hand(here.driver(SAVES))
    here.wait_for("up", job)
    done = here.run(*here.cancel, job)
    assert done.returncode == 0, done.stderr
    here.assert_nothing_left(15)
    said = here.told(job, "itself is ending job")
    assert "driver got SIG" in said
    assert "the driver asks to be run again" in said


@of(*EVERY)
def test_walltime(site: Site) -> None:
    """the driver is told before the walltime, runs again after 75, and resumes"""
    here = site.at("walltime")
    flags = ("-N", "1", "-t", str(here.minutes))
    job = here.submit(*flags, "--", here.driver(RESUMES), RAYHPC_GRACE=str(GRACE))
    here.wait_for("checkpoint", job, 100)
    here.start_next_life(job)
    ended = here.alloc("wait", job, seconds=120)
    said = here.alloc("logs", job).stdout
    assert ended.returncode == 0, said + ended.stderr
    (line,) = [line for line in said.splitlines() if line.startswith("resumed ")]
    saved = json.loads(line[len("resumed ") : line.index(" in life")])
    assert (saved["life"], line.endswith("in life 1")) == ("0", True)
    assert 0 < saved["left"] <= GRACE
    assert not [path.name for path in here.work.iterdir() if path.name.startswith(".rayhpc-restarts")]


@of(GridEngine.name)
def test_open_mpi(site: Site, openmpi_python: Path) -> None:
    """under Open MPI: ranks on several hosts, and the driver's exit code"""
    here = replace(site.at("openmpi"), python=openmpi_python)
    own = here.work / f"own{here.script.suffix}"
    asked_twice = "".join(f"export {name}={value}\n" for name, value in ROOT.items())
    own.write_text(here.script.read_text().replace("# rayhpc: settings", asked_twice + COLOUR))
    job = here.submit("-N", "2", "-t", "5", "--ranks-per-host", "2", "--script", own.name, "--", here.driver(FIRST))
    first = First(here, job, here.alloc("wait", job, seconds=180))
    assert first.ended.returncode == 7, first.said + first.ended.stderr
    assert f"rayhpc: {openmpi_python.with_name('mpiexec')} " in first.said
    hosts = first.told["hosts"]
    assert [hosts.count(host) for host in set(hosts)] == [2, 2], hosts
    assert first.told["colours"] == ["light blue"] * 4
    here.assert_nothing_left(15)


@of(Slurm.name, GridEngine.name)
def test_lost_host(site: Site) -> None:
    """a host loses its power: the job ends, and nothing is left on the others"""
    assert isinstance(site, OnVirtualHosts)
    here = site.at("lost")
    job = here.submit("-N", "2", "-t", "5", *site.ends_once, "--", here.driver(LOSES))
    here.wait_for("other", job)
    site.cluster.kill((here.work / "other").read_text())
    ended = here.alloc("wait", job, seconds=120)
    said = here.alloc("logs", job).stdout
    assert ended.returncode not in (0, 124), said + ended.stderr
    assert "no node is dead" not in said
    here.assert_nothing_left(15)
