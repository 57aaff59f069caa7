"""The schedulers that the suite asks, real ones and stand-ins, each as a user of its login node meets it."""

from __future__ import annotations

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

from rayhpc.batch import jobscript
from rayhpc.schedulers import SYSTEMS
from tests.launch import Mpi, installed, left_over, nothing_left, skip, until
from tests.slurm.slurm_cluster import CONTROLLER, Job, SlurmCluster
from tests.slurm.test_jobscript import active
from tests.standin.login import Login, login

SETUP = Path(__file__).with_name("grid_engine.sh")
GRID_ENGINE = Path("/usr/lib/gridengine")
# Open MPI refuses root unless asked twice; the environment's path is what a user would have activated.
ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
Done = subprocess.CompletedProcess[str]
_S = TypeVar("_S", bound="Site")


@dataclass(frozen=True)
class Site(ABC):
    """A login node, and the directory from which jobs are submitted.

    kind: whether the scheduler is real; minutes: the shortest walltime that leaves time for a run; cancel: the
    scheduler's own command for it.
    """

    work: Path
    python: Path

    name: ClassVar[str]
    kind: ClassVar[str]
    cancel: ClassVar[tuple[str, ...]]
    minutes: ClassVar[int] = 1

    @abstractmethod
    def run(self, *argv: str | Path, seconds: float = 60.0, stdin: Path | None = None, **variables: str) -> Done:
        """A command on the login node, whatever its code."""

    @abstractmethod
    def by_hand(self, *driver: str) -> str:
        """Submit the shipped script on two hosts as a user does, without rayhpc; the job's id."""

    @abstractmethod
    def output(self, job: str) -> Path:
        """The file that the shipped script's directives promise, where it was submitted."""

    @abstractmethod
    def assert_nothing_left(self, seconds: float) -> None:
        """Wait until no process, directory or file of this directory's runs is left on any host."""

    def at(self: _S, name: str) -> _S:
        """The same login node in a directory of its own."""
        work = self.work / name
        work.mkdir()
        return replace(self, work=work)

    @property
    def script(self) -> Path:
        return jobscript.shipped(SYSTEMS[self.name].script)

    def alloc(self, *words: str, seconds: float = 60.0, **variables: str) -> Done:
        return self.run(self.python, "-m", "rayhpc", "alloc", *words, seconds=seconds, **variables)

    def submit(self, *words: str, **variables: str) -> str:
        """By `rayhpc alloc submit`; the id that it prints."""
        done = self.alloc("submit", self.name, *words, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def submitted(self, done: Done) -> str:
        """The id that the scheduler's own command has printed."""
        assert done.returncode == 0, done.stdout + done.stderr
        job = SYSTEMS[self.name].read_id(done.stdout)
        assert job, done.stdout
        return job

    def driver(self, text: str) -> str:
        (self.work / "driver.py").write_text(text)
        return "driver.py"

    def told(self, job: str, text: str, seconds: float = 30.0) -> str:
        """The promised output, once it has a text; some schedulers write it at the end."""
        file = self.output(job)
        read = lambda: file.read_text(errors="replace") if file.exists() else ""  # noqa: E731
        assert until(lambda: text in read(), seconds), f"no {text!r} in {file}: {read()}"
        return read()

    def wait_for(self, name: str, job: str, seconds: float = 60.0) -> None:
        """Until the driver has made a file."""
        if not until((self.work / name).exists, seconds):
            files = [file for file in (self.output(job), *self.work.rglob("job.out")) if file.exists()]
            texts = [file.read_text(errors="replace") for file in files]
            raise AssertionError(f"no {name} of job {job}: {texts}\n{self.situation(job)}")

    def situation(self, job: str) -> str:
        """What the scheduler says of a job."""
        argv = SYSTEMS[self.name].queries[0].argv([job])
        done = self.run(*argv)
        return done.stdout + done.stderr

    def start_next_life(self, job: str) -> None:  # noqa: B027 - most schedulers start it themselves
        """For a scheduler that holds a job which was requeued."""


@dataclass(frozen=True)
class OnVirtualHosts(Site):
    """A real scheduler on hosts with an address each; ends_once: options of a job that is not run again."""

    cluster: SlurmCluster

    kind = "real"
    ends_once: ClassVar[tuple[str, ...]] = ()

    def environment(self) -> Mapping[str, str]:
        return active(self.python)

    def run(self, *argv: str | Path, seconds: float = 60.0, stdin: Path | None = None, **variables: str) -> Done:
        assert stdin is None
        env = {**self.environment(), **variables}
        return self.cluster.sh(CONTROLLER, *argv, cwd=self.work, env=env, timeout=seconds, check=False)

    def assert_nothing_left(self, seconds: float) -> None:
        self.cluster.assert_nothing_left(seconds)


class Slurm(OnVirtualHosts):
    name = "slurm"
    cancel = ("scancel",)
    ends_once = ("--directive", "--no-requeue")

    def by_hand(self, *driver: str) -> str:
        return self.submitted(self.run("sbatch", "--parsable", "-N2", "--no-requeue", self.script, *driver))

    def output(self, job: str) -> Path:
        return self.work / f"rayhpc-{job}.out"

    def start_next_life(self, job: str) -> None:
        """Slurm holds it for two minutes."""
        known = Job(self.cluster, job, self.work)
        known.wait_state("PENDING", timeout=90)
        known.start_now()


class GridEngine(OnVirtualHosts):
    name = "sge"
    cancel = ("qdel",)

    def environment(self) -> Mapping[str, str]:
        own = active(self.python)
        where = {"SGE_ROOT": str(self.cluster.state / "sge"), "SGE_QMASTER_PORT": "6444", "SGE_EXECD_PORT": "6445"}
        return {**own, **where, "PATH": f"{GRID_ENGINE}:{own['PATH']}"}

    def by_hand(self, *driver: str) -> str:
        passed = ",".join(f"{name}={value}" for name, value in {"RAYHPC_VENV": self.python.parents[1], **ROOT}.items())
        return self.submitted(self.run("qsub", "-terse", "-v", passed, "-pe", "mpi", "2", self.script, *driver))

    def output(self, job: str) -> Path:
        return self.work / f"rayhpc.o{job}"


@dataclass(frozen=True)
class StandIn(Site):
    """A scheduler that is a stand-in on this host; others: the hosts on which it starts what a job of two has there."""

    login: Login

    kind = "stand-in"
    others: ClassVar[set[str]] = {"node2"}

    def started_on(self, job: str) -> set[str]:
        """The hosts on which the scheduler itself has started tasks of the job."""
        return {task.read_text() for task in self.login.spool(job).glob("task.*")}

    def run(self, *argv: str | Path, seconds: float = 60.0, stdin: Path | None = None, **variables: str) -> Done:
        return replace(self.login, work=self.work).run(*argv, seconds=seconds, stdin=stdin, **variables)

    def assert_nothing_left(self, seconds: float) -> None:
        assert until(lambda: not left_over(self.work), seconds), left_over(self.work)


class Pbs(StandIn):
    name = "pbs"
    cancel = ("qdel",)

    def by_hand(self, *driver: str) -> str:
        told = {"RAYHPC_VENV": str(self.python.parents[1]), "RAYHPC_DRIVER": " ".join(driver), **ROOT}
        passed = ",".join(f"{name}={value}" for name, value in told.items())
        return self.submitted(self.run("qsub", "-l", "select=2:ncpus=1:mpiprocs=1", "-v", passed, self.script))

    def output(self, job: str) -> Path:
        return self.work / f"rayhpc.o{job.partition('.')[0]}"


class Lsf(StandIn):
    name = "lsf"
    cancel = ("bkill",)
    minutes = 2

    def by_hand(self, *driver: str) -> str:
        told = {"RAYHPC_VENV": str(self.python.parents[1]), "RAYHPC_DRIVER": " ".join(driver)}
        return self.submitted(self.run("bsub", "-n", "2", stdin=self.script, **told))

    def output(self, job: str) -> Path:
        return self.work / f"rayhpc.{job}.out"


class Flux(StandIn):
    name = "flux"
    cancel = ("flux", "cancel")
    others: ClassVar[set[str]] = {"all"}

    def by_hand(self, *driver: str) -> str:
        venv = str(self.python.parents[1])
        return self.submitted(self.run("flux", "batch", "--nodes=2", self.script, *driver, RAYHPC_VENV=venv))

    def output(self, job: str) -> Path:
        short = self.run("flux", "job", "id", "--to=f58", job).stdout.strip()
        return self.work / f"rayhpc-{short}.out"


STAND_INS = (Pbs, Lsf, Flux)
ALL = {site.name: site for site in (Slurm, GridEngine, *STAND_INS)}


@contextmanager
def stand_in(name: str, mpi: Mpi, directory: Path) -> Iterator[Site]:
    with nothing_left(directory), login(name, mpi, directory, **ROOT) as made:
        yield {site.name: site for site in STAND_INS}[name](made.work, made.python, made)


@contextmanager
def grid_engine(cluster: SlurmCluster, directory: Path, python: Path) -> Iterator[Site]:
    """On the virtual hosts, beside their Slurm."""
    if not (GRID_ENGINE / "sge_qmaster").exists():
        skip(f"no Grid Engine in {GRID_ENGINE}: {SETUP.name} says what to install")
    root = cluster.state / "sge"
    cluster.sh(CONTROLLER, SETUP, "master", root, *cluster.nodes)
    for node in cluster.nodes:
        cluster.sh(node, SETUP, "execd", root)
    try:
        yield GridEngine(directory, python, cluster)
    finally:
        cluster.sh(CONTROLLER, SETUP, "end", root, check=False)
        for node in cluster.nodes:
            cluster.kill(node)
        cluster.make_whole()
        shutil.rmtree(root)


@contextmanager
def opened(name: str, cluster: SlurmCluster | None, directory: Path, python: Path) -> Iterator[Site]:
    """The scheduler of this name; cluster: the virtual hosts of a real one."""
    if cluster is None:
        with stand_in(name, installed("mpich"), directory) as site:
            yield site
        return
    cluster.make_whole()
    if name == Slurm.name:
        yield Slurm(directory, python, cluster)
        return
    with grid_engine(cluster, directory, python) as site:
        yield site
