"""The shipped PBS scripts, run under PBS's rules by stand-ins for qsub, qstat, qdel, pbs_tmrsh and aprun."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch import REPOSITORY, Mpi, installed, nothing_left, until
from tests.standin.login import Login, login

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
PBS = REPOSITORY / "jobscripts/pbs.pbs"
THETA = REPOSITORY / "jobscripts/theta.pbs"
ONE = ("-l", "select=1:ncpus=1:mpiprocs=1")
TWO_HOSTS = ("-l", "select=2:ncpus=1:mpiprocs=2")
COUNT = """
import os, ray, sys
ray.init(log_to_driver=False)
print("nodes", len(ray.nodes()), "argv", sys.argv[1:], "in", os.getcwd(), flush=True)
sys.exit(7)
"""
WAIT = """
import ray, time
ray.init(log_to_driver=False)
print("driver up", flush=True)
while True:
    time.sleep(0.05)
"""
# Answers SIGTERM by 75, as one that has written a checkpoint.
SAVES = """
import signal, sys, time
def save(signum, frame):
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("driver up", flush=True)
time.sleep(600)
"""
# Ends with 75 until it has had as many lives as its argument says.
LIVES = """
import json, os, sys
names = ("RAYHPC_RESTARTS", "RAYHPC_CHAIN", "PBS_JOBID", "COLOUR")
with open("lives", "a") as file:
    file.write(json.dumps([os.environ.get(name) for name in names]) + "\\n")
sys.exit(75 if len(open("lives").readlines()) < int(sys.argv[1]) else 0)
"""
COBALT_QSUB = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done >>"$HOME/submitted"
printf 'Job routed to queue "default".\\n1235\\n'
"""
COBALT_QSTAT = "#!/bin/sh\nprintf 'Queue  Project\\n======\\ndebug  physics\\n'\n"


@dataclass(frozen=True)
class Site(Login):
    """A login node of PBS."""

    def submit(self, *words: str | Path, driver: str = "", venv: bool = True, **variables: str) -> str:
        """The id of a job, as a user submits it."""
        passed = {
            **({"RAYHPC_VENV": str(Path(self.mpi.python).parents[1])} if venv else {}),
            **({"RAYHPC_DRIVER": driver} if driver else {}),
            **({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}),
            **variables,
        }
        done = self.run("qsub", "-v", ",".join(f"{name}={value}" for name, value in passed.items()), *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _site(mpi: Mpi, directory: Path) -> Iterator[Site]:
    # COLOUR: what a job must not see is in the submitter's environment.
    with nothing_left(directory / "work"), login("pbs", mpi, directory, COLOUR="red") as made:
        yield Site("pbs", mpi, made.home, made.work, made.variables)
    assert not list(Path("/var/tmp").glob("pbs.*.standin.example.org"))


@pytest.fixture
def site(mpich: Mpi, tmp_path: Path) -> Iterator[Site]:
    yield from _site(mpich, tmp_path)


@pytest.fixture
def site_with_openmpi(tmp_path: Path) -> Iterator[Site]:
    yield from _site(installed("openmpi"), tmp_path)


def test_two_hosts_through_pbs(site: Site) -> None:
    """Hydra reaches the second host by pbs_tmrsh; each host counts once, whatever its lines in PBS_NODEFILE."""
    job = site.submit(*TWO_HOSTS, THETA, driver=f"{site.driver('count.py', COUNT)} --lr 3e-4")
    assert site.wait(job) == 7, site.output(job)
    assert f"nodes 2 argv ['--lr', '3e-4'] in {site.work}\n" in site.output(job)
    assert [file.read_text() for file in site.spool(job).glob("task.*")] == ["node2"]
    assert (site.work / f"rayhpc.o{job.partition('.')[0]}").read_text() == site.output(job)


SETTINGS = """
import os, ray
ray.init(log_to_driver=False)
seen = ray.remote(num_cpus=1)(lambda: os.environ.get("COLOUR"))
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
tasks = [seen.options(scheduling_strategy=On(node["NodeID"], False)).remote() for node in ray.nodes()]
print("COLOURS", ray.get(tasks), flush=True)
"""


def test_what_the_script_sets_reaches_all_hosts(site_with_openmpi: Site) -> None:
    """PBS starts the second host's ranks in an environment of its own, and Open MPI passes on what it is told to."""
    site = site_with_openmpi
    script = site.work / "own.pbs"
    script.write_text(PBS.read_text().replace("# rayhpc: settings", "export COLOUR='light blue'"))
    job = site.submit(*TWO_HOSTS, script, driver=site.driver("settings.py", SETTINGS))
    assert site.wait(job) == 0, site.output(job)
    assert "COLOURS ['light blue', 'light blue']" in site.output(job)


def test_two_ranks_on_a_host(site_with_openmpi: Site) -> None:
    site = site_with_openmpi
    driver = site.driver("count.py", COUNT)
    job = site.submit(*ONE, PBS, driver=driver, RAYHPC_RANKS_PER_HOST="2")
    assert site.wait(job) == 7, site.output(job)
    assert "nodes 2 " in site.output(job)


def test_numa_domains_are_counted_on_each_host(site: Site) -> None:
    """A stand-in for lscpu has two on the first host and one on the second."""
    site.provide("lscpu", '#!/bin/sh\necho "# Node"; echo 0; [ "$PMI_RANK" != 0 ] || echo 1\n')
    job = site.submit(*TWO_HOSTS, PBS, driver=site.driver("count.py", COUNT), RAYHPC_RANKS_PER_HOST="numa")
    assert site.wait(job) == 7, site.output(job)
    assert "nodes 3 " in site.output(job)


@pytest.mark.parametrize("script", [PBS, THETA], ids=["pbs", "theta"])
def test_gpus_are_counted(site: Site, script: Path) -> None:
    """Those that the job has; none are a sentence, and nothing is started."""
    two = site.work / "two.pbs"
    two.write_text(script.read_text().replace("# rayhpc: settings", "export CUDA_VISIBLE_DEVICES=0,1"))
    job = site.submit(*ONE, two, driver=site.driver("count.py", COUNT), RAYHPC_RANKS_PER_HOST="gpu")
    assert site.wait(job) == 7, site.output(job)
    assert "nodes 2 " in site.output(job)
    if not Path("/proc/driver/nvidia").exists():
        job = site.submit(*ONE, script, driver="count.py", RAYHPC_RANKS_PER_HOST="gpu")
        assert site.wait(job) == 78, site.output(job)
        assert "a host of the job has no gpu" in site.output(job)


CPUS = """
import ray
ray.init(log_to_driver=False)
print("CPUS", [node["Resources"]["CPU"] for node in ray.nodes()], flush=True)
"""


@pytest.mark.parametrize(("more", "cpus"), [({}, 1.0), ({"RAYHPC_NUM_CPUS": "2"}, 2.0)], ids=["granted", "said"])
def test_ray_takes_what_was_granted(site: Site, more: dict[str, str], cpus: float) -> None:
    """One CPU of a host that has several, though nothing binds the job to it; the user may say otherwise."""
    job = site.submit(*ONE, PBS, driver=site.driver("cpus.py", CPUS), **more)
    assert site.wait(job) == 0, site.output(job)
    assert f"CPUS [{cpus}]" in site.output(job)
    assert ("the job has 1 of this host's CPUs" in site.output(job)) == (not more)


SIGNALLED = """
import signal, sys, time
def note(signum, frame):
    print("driver got", signum, flush=True)
    sys.exit(9)
signal.signal(signal.SIGUSR1, note)
print("driver up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("trapped", [True, False])
def test_qsig(site: Site, trapped: bool) -> None:
    """The login shell above the script gets the signal too, and dies of it unless its start file has a trap."""
    if trapped:
        with (site.home / ".bash_profile").open("a") as profile:
            profile.write("trap : USR1 USR2\n")
    job = site.submit(*ONE, PBS, driver=site.driver("signalled.py", SIGNALLED))
    assert until(lambda: "driver up" in site.output(job), 120), site.output(job)
    assert site.run("qsig", "-s", "SIGUSR1", job).returncode == 0
    assert site.wait(job, 60) == (9 if trapped else 256 + 10), site.output(job)
    assert ("driver got 10" in site.output(job)) or not trapped


def test_a_temporary_directory_that_is_not_there(site: Site) -> None:
    with (site.home / ".bash_profile").open("a") as profile:
        profile.write("export TMPDIR=/nowhere/scratch\n")
    job = site.submit(*ONE, PBS, driver=site.driver("count.py", COUNT))
    assert site.wait(job) == 7, site.output(job)
    assert "TMPDIR=/nowhere/scratch is not on this host: /tmp is used" in site.output(job)


def test_lives(site: Site) -> None:
    """75, 75, 0: each attempt is a job of its own, with the resources, the queue and the variables of the first."""
    asked = (
        "-l", "select=1:ncpus=1:mpiprocs=1:ngpus=0,walltime=00:50:00", "-q", "workq", "-A", "physics", "-N", "cartpole",
    )  # fmt: skip
    lives = 3
    driver = f"{site.driver('lives.py', LIVES)} {lives}"
    first = site.submit(*asked, PBS, driver=driver, COLOUR="blue")
    assert site.wait(first) == 75, site.output(first)
    assert until(lambda: len(site.jobs()) == lives, 120), site.jobs()
    jobs = site.jobs()
    assert [site.wait(job["id"]) for job in jobs] == [75] * (lives - 1) + [0], [site.output(job["id"]) for job in jobs]
    told = [json.loads(line) for line in (site.work / "lives").read_text().splitlines()]
    assert told == [[str(number), first, job["id"], "blue"] for number, job in enumerate(jobs)]
    for job in jobs:
        assert job["resources"] == jobs[0]["resources"]
        assert job["resources"]["walltime"] == "00:50:00"
        assert (job["name"], job["account"], job["queue"]) == ("cartpole", "physics", "workq")
    assert f"the next attempt of job {first} is job {jobs[1]['id']}" in site.output(first)
    assert not [path for path in site.work.iterdir() if "next" in path.name]


def test_the_login_node_follows_all_lives(site: Site) -> None:
    """The id that was printed names the job in each of its attempts, and one file has what they all wrote."""
    done = site.alloc("submit", "pbs", "-N", "1", "--", site.driver("lives.py", LIVES), "3")
    assert done.returncode == 0, done.stderr
    first = done.stdout.strip()
    waited = site.alloc("wait", first, seconds=200)
    assert waited.returncode == 0, waited.stderr
    ids = [job["id"] for job in site.jobs()]
    assert len(ids) == 3
    # An attempt may end between two questions, and is passed over then.
    assert waited.stderr.splitlines()[-1] == f"job {ids[2]} COMPLETED (F), exit code 0"
    shown = json.loads(site.alloc("show", first, "--json").stdout)
    assert (shown["earlier"], shown["job_id"]) == (ids[:2], ids[2])
    assert [run["code"] for run in shown["runs"]] == [75, 75, 0]
    said = site.alloc("logs", ids[1]).stdout
    assert [said.count(f"the next attempt of job {ids[0]} is job {ids[1]}"), said.count("shut down in ")] == [1, 3]
    assert f"job {ids[2]} has ended already" in site.alloc("cancel", first).stderr
    assert not list(site.work.glob("rayhpc.o*"))


def test_qdel_is_the_end_of_the_chain(site: Site) -> None:
    """Under ALPS too, and also for a driver that answers SIGTERM by a checkpoint and 75."""
    done = site.alloc("submit", "pbs", "-N", "1", "--script", str(THETA), "--", site.driver("saves.py", SAVES))
    job = done.stdout.strip()
    assert until(lambda: "driver up" in site.alloc("logs", job).stdout, 120), site.output(job)
    assert site.alloc("cancel", job).returncode == 0
    assert site.alloc("wait", job).returncode == 75, site.output(job)
    said = site.alloc("logs", job).stdout
    assert "the driver asks to be run again" in said
    assert f"itself is ending job {job}, as after qdel" in said
    assert len(site.jobs()) == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RAYHPC_REQUEUE": "no"}, ""),
        ({"RAYHPC_MAX_RESTARTS": "1", "RAYHPC_RESTARTS": "1"}, "not submitted again: 1 restarts are all"),
    ],
)
def test_no_further_life(site: Site, variables: dict[str, str], said: str) -> None:
    job = site.submit(*ONE, PBS, driver=f"{site.driver('lives.py', LIVES)} 9", **variables)
    assert site.wait(job) == 75, site.output(job)
    assert said in site.output(job)
    assert len(site.jobs()) == 1


def test_qsub_is_refused_in_the_job(site: Site) -> None:
    """As sites do that allow qsub on login nodes only: the code stays the driver's, and the job says so."""
    job = site.submit(*ONE, PBS, driver=f"{site.driver('lives.py', LIVES)} 9")
    site.provide("qsub", "#!/bin/sh\necho 'qsub: not allowed here' >&2\nexit 159\n")
    assert site.wait(job) == 75, site.output(job)
    assert "qsub: not allowed here" in site.output(job)
    assert "submit it by hand" in site.output(job)


@pytest.mark.parametrize("script", [PBS, THETA], ids=["pbs", "theta"])
def test_no_environment(site: Site, script: Path) -> None:
    """PBS does not pass what was active at qsub: one sentence, before anything is launched."""
    job = site.submit(*ONE, script, venv=False)
    assert site.wait(job) == 78, site.output(job)
    assert "next: " in site.output(job)
    assert not (site.work / "rayhpc-runs").exists()
    job = site.submit(*ONE, script, venv=False, RAYHPC_VENV="/nowhere")
    assert site.wait(job) == 78, site.output(job)
    assert "there is no Python environment /nowhere" in site.output(job)


@pytest.mark.parametrize("aprun", [True, False], ids=["aprun", "mpiexec"])
def test_theta(site: Site, aprun: bool) -> None:
    if aprun:
        site.provide("aprun", (HERE / "aprun").read_text())
    job = site.submit(
        *ONE, THETA, driver=site.driver("count.py", COUNT), RAYHPC_RANKS_PER_HOST="2", RAYHPC_CPUS_PER_HOST="64"
    )
    assert site.wait(job) == 7, site.output(job)
    assert "nodes 2 " in site.output(job)
    said = "aprun stand-in: 2 ranks, 2 on a host, 32 CPUs each, binding none"
    assert (said in site.output(job)) == aprun
    assert (f"{Path(site.mpi.python).with_name('mpiexec')} -f" in site.output(job)) != aprun


def test_theta_under_cobalt(site: Site) -> None:
    """Cobalt runs the script itself, with arguments, in the submit directory; the next attempt gets them again."""
    site.provide("aprun", (HERE / "aprun").read_text())
    site.provide("qsub", COBALT_QSUB)
    site.provide("qstat", COBALT_QSTAT)
    driver, now = site.driver("lives.py", LIVES), int(time.time())
    cobalt = {
        "COBALT_JOBID": "1234", "COBALT_JOBSIZE": "1", "COBALT_STARTTIME": str(now), "COBALT_ENDTIME": str(now + 3600),
        "RAYHPC_VENV": str(Path(site.mpi.python).parents[1]), "RAYHPC_RUN_DIR": f"{site.work}/rayhpc-runs",
    }  # fmt: skip
    done = subprocess.run(
        [THETA, driver, "9", "two words"], cwd=site.work, env={**site.environment(), **cobalt}, timeout=120,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    words = (site.home / "submitted").read_text().splitlines()
    place = words.index("--env")
    assert words[:place] == shlex.split("--mode script -n 1 -t 60 -q debug -A physics --jobname rayhpc")
    told = dict(pair.split("=", 1) for pair in words[place + 1].split(":"))
    assert told["RAYHPC_RESTARTS"] == "1"
    assert told["RAYHPC_CHAIN"] == "1234"
    assert told["RAYHPC_VENV"] == cobalt["RAYHPC_VENV"]
    assert words[place + 2 :] == [str(THETA), driver, "9", "two words"]
    assert "the next attempt of job 1234 is job 1235" in done.stderr
