"""Whole hosts: without power, frozen, shut down, behind a cut cable that is healed in time, or never; the wrong one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.cells import FAULTS, WORLDS, Cell, met
from tests.faults.odd import BOUND
from tests.faults.victims import DRIVER, Victims
from tests.launch import skip, until
from tests.slurm.slurm_cluster import Job, SlurmCluster, virtual_cluster, why_unavailable
from tests.slurm.test_jobscript import SCRIPT, active

pytestmark = pytest.mark.slurm

HEAD, WORKER = "node1", "node2"
# What the design promises, in seconds: a lost host is noticed; the driver's ladder; all is given back on the others.
LOSS, LADDER, GIVEN_BACK = 15.0, 2.5, 2.0
END = LOSS + LADDER + GIVEN_BACK
CONTINUE, ABORT = "continue", "abort"


@pytest.fixture(scope="module")
def patient_cluster(shared_directories: tuple[Path, ...]) -> Iterator[SlurmCluster]:
    """Two hosts whose Slurm gives up no host by itself: what a loss means is left to us."""
    if reason := why_unavailable():
        skip(reason)
    settings = {"VH_SLURM_CONF": "SlurmdTimeout=300", "VH_NETWORKS": "eth0=10.232.0"}
    with virtual_cluster(2, Path(f"/var/lib/virtual-hosts-faults-{os.getpid()}"), shared_directories, settings) as made:
        yield made


@dataclass(frozen=True)
class Run:
    """A job of one rank on each of two hosts whose driver is up."""

    cluster: SlurmCluster
    job: Job
    victims: Victims
    ranks: tuple[int, int]

    def until(self, text: str, seconds: float) -> None:
        """Wait for words of the job; fails with all that it said."""
        self.job.wait_output(text, seconds)

    def empty(self, host: str) -> bool:
        """Nothing of the job is left on a host but what Slurm has there: its step daemons and its script."""
        mine = [process for process in self.cluster.processes(host) if _ours(process.argv)]
        return not mine and not self.cluster.files(host)

    def is_empty(self, host: str, began: float, seconds: float) -> float:
        """Wait until a host is empty; the seconds since the fault."""
        left = lambda: (self.cluster.processes(host), self.cluster.files(host), self.job.output)  # noqa: E731
        assert until(lambda: self.empty(host), seconds), left()
        return time.monotonic() - began

    def works(self) -> None:
        """Rank 1's node runs tasks."""
        os.kill(self.ranks[0], signal.SIGUSR1)
        self.until("a task ran in", 40)

    def ends(self) -> None:
        """The user's TERM ends it, with the driver's own code."""
        os.kill(self.ranks[0], signal.SIGTERM)
        assert self.job.wait(60).exit_code == 9, self.job.output


def _ours(argv: tuple[str, ...]) -> bool:
    """Whether a process belongs to the ranks, to Ray or to the driver; srun and the batch script wait for KillWait."""
    slurms = Path(argv[0]).name == "srun" or any(word.endswith("/slurm_script") for word in argv)
    return not slurms and any(
        word in argument for argument in argv for word in ("rayhpc", "ray::", "/ray/", "driver.py")
    )


@pytest.fixture
def bring_up(patient_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> Iterator[Callable[..., Run]]:
    """Starts the job with a policy; afterwards every host is whole again, whatever was done to it."""
    patient_cluster.make_whole()

    def start(policy: str = CONTINUE, **environment: str) -> Run:
        (tmp_path / "driver.py").write_text(DRIVER)
        env = active(mpich_python, RAYHPC_ON_NODE_LOSS=policy, **environment)
        flags = ("-N2", "--no-requeue", "--no-kill")
        job = patient_cluster.sbatch(*flags, SCRIPT, tmp_path / "driver.py", cwd=tmp_path, env=env)
        job.wait_output("driver up", 120)
        (run,) = [path for path in (tmp_path / "rayhpc-runs").iterdir() if path.name[:2] == "20"]
        victims = Victims(run.name)
        return Run(patient_cluster, job, victims, (victims.rank(0), victims.rank(1)))

    yield start
    for host in (HEAD, WORKER):  # a daemon of Slurm's that was stopped or ended does not come back by itself
        patient_cluster.kill(host)
    patient_cluster.make_whole()


def signal_host(cluster: SlurmCluster, host: str, signum: signal.Signals, spared: str = "") -> None:
    """Signal every process of a host but its PID 1 and what has `spared` in its command line."""
    init = cluster.root(host).parent
    namespace = os.readlink(init / "ns" / "pid")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry != init:
            with contextlib.suppress(OSError):  # ended meanwhile
                inside = os.readlink(entry / "ns" / "pid") == namespace
                if inside and not (spared and spared in (entry / "cmdline").read_text(errors="replace")):
                    os.kill(int(entry.name), signum)


def without_power(cluster: SlurmCluster, host: str) -> None:
    cluster.kill(host)


def frozen(cluster: SlurmCluster, host: str) -> None:
    signal_host(cluster, host, signal.SIGSTOP)


def cut_off(cluster: SlurmCluster, host: str) -> None:
    cluster.cut(host)


LOSSES = pytest.mark.parametrize(
    ("loss", "what"),
    [
        pytest.param(without_power, "SIGKILL to every process, no packet any more (power loss)", id="power"),
        pytest.param(frozen, "SIGSTOP to every process", id="frozen"),
        pytest.param(cut_off, "cable cut, never healed", id="cut"),
    ],
)
Loss = Callable[[SlurmCluster, str], None]
NOTICED = ("Ray has declared the node dead", "the rank has not been heard of for 12 s")


def cause(output: str) -> str:
    """Which of the two ways of noticing a lost host was the first."""
    return min((words for words in NOTICED if words in output), key=output.index)


@LOSSES
def test_a_workers_host_under_abort(bring_up: Callable[..., Run], loss: Loss, what: str) -> None:
    """The run ends with 74 and names the host; the head's host is given back at once."""
    run = bring_up(ABORT)
    began = time.monotonic()
    loss(run.cluster, WORKER)
    run.until("exit code 74: ", END + 20)
    run.until("shut down in ", 20)
    seconds = run.is_empty(HEAD, began, 20)
    assert f"[rank 1 on {WORKER}]" in run.job.output
    assert "last words" in run.job.output
    outcome = f"74 NODE_LOST: '{cause(run.job.output)}  [rank 1 on {WORKER}]'; seconds until the head's host is empty"
    met(Cell(FAULTS, f"a worker's host, {what}, abort; two hosts, srun", outcome, seconds, END + 3.0))


@LOSSES
def test_a_workers_host(bring_up: Callable[..., Run], loss: Loss, what: str) -> None:
    """The run goes on without it; the driver's end is the job's."""
    run = bring_up(CONTINUE)
    began = time.monotonic()
    loss(run.cluster, WORKER)
    run.until(f"LOST rank 1 on {WORKER}: ", LOSS + 20)
    seconds = time.monotonic() - began
    os.kill(run.ranks[0], signal.SIGTERM)
    run.until("exit code 9", 30)
    run.is_empty(HEAD, began, 30)
    outcome = f"goes on: 'LOST rank 1 on {WORKER}: {cause(run.job.output)}; the run goes on with 1 node'"
    met(Cell(FAULTS, f"a worker's host, {what}; two hosts, srun", outcome, seconds, LOSS))


@LOSSES
def test_the_heads_host(bring_up: Callable[..., Run], loss: Loss, what: str) -> None:
    """Nobody leads any more, and nobody can be told: the other hosts give back by themselves."""
    run = bring_up(CONTINUE)
    began = time.monotonic()
    loss(run.cluster, HEAD)
    seconds = run.is_empty(WORKER, began, END + 20)
    outcome = "the other host is empty (the seconds); how the job ends is Slurm's to say"
    met(Cell(FAULTS, f"the head's host, {what}; two hosts, srun", outcome, seconds, END))


def test_a_workers_host_that_is_cut_off_gives_back(bring_up: Callable[..., Run]) -> None:
    """Also the host behind the cut is empty soon, although nobody can tell it to be."""
    run = bring_up(ABORT)
    began = time.monotonic()
    run.cluster.cut(WORKER)
    seconds = run.is_empty(WORKER, began, END + 20)
    outcome = "the host behind the cut is empty as well (the seconds)"
    met(Cell(FAULTS, "a worker's host, cable cut, behind the cut; two hosts, srun", outcome, seconds, END))


@pytest.mark.parametrize("host", [WORKER, HEAD])
def test_a_cable_is_healed_after_five_seconds(bring_up: Callable[..., Run], host: str) -> None:
    """Nobody is lost: the cluster is whole, and works."""
    run = bring_up(ABORT)
    run.cluster.cut(host)
    assert not until(lambda: run.job.state != "RUNNING", 5.0)
    run.cluster.heal(host)
    began = time.monotonic()
    run.works()
    seconds = time.monotonic() - began
    assert not until(lambda: run.job.state != "RUNNING", LOSS)
    assert "LOST" not in run.job.output
    run.ends()
    run.cluster.assert_nothing_left(10)
    whose = "a worker's" if host == WORKER else "the head's"
    outcome = "goes on, none lost; seconds until a task runs on the worker again"
    met(Cell(FAULTS, f"{whose} host, cable cut, healed after 5 s; two hosts, srun", outcome, seconds, LOSS))


def test_a_workers_host_is_shut_down(bring_up: Callable[..., Run]) -> None:
    """SIGTERM to every process there, Ray's too, but not to Slurm's: the driver has the last word."""
    run = bring_up(CONTINUE)
    began = time.monotonic()
    signal_host(run.cluster, WORKER, signal.SIGTERM, spared="slurm")
    run.until("exit code 9", 30)
    seconds = run.is_empty(HEAD, began, 20)
    assert "last words" in run.job.output
    met(Cell(FAULTS, "a worker's host, SIGTERM to all but Slurm's; two hosts, srun", "9, the driver's", seconds, 10.0))


def test_a_workers_host_without_power_under_mpiexec(bring_up: Callable[..., Run], mpich_python: Path) -> None:
    run = bring_up(ABORT, RAYHPC_LAUNCH=f"{mpich_python.with_name('mpiexec')} -n 2 -ppn 1")
    began = time.monotonic()
    run.cluster.kill(WORKER)
    run.until("exit code 74: ", END + 20)
    seconds = run.is_empty(HEAD, began, 30)
    outcome = f"74 NODE_LOST: '{cause(run.job.output)}  [rank 1 on {WORKER}]'; seconds until the head's host is empty"
    met(Cell(FAULTS, "a worker's host, power loss, abort; two hosts, mpiexec", outcome, seconds, END + 3.0))


def test_a_login_node(patient_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """Refused, since it is shared and not for work, unless one insists."""
    (tmp_path / "driver.py").write_text("print('on the login node')\n")
    began = time.monotonic()
    start = (mpich_python, "-m", "rayhpc.start")
    done = patient_cluster.sh("ctl", *start, "driver.py", cwd=tmp_path, env=active(mpich_python), check=False)
    seconds = time.monotonic() - began
    assert (done.returncode, done.stdout) == (78, ""), done.stderr
    assert "ctl is a login node: slurm runs no jobs on it" in done.stderr
    assert not list(tmp_path.glob("rayhpc-runs/2*"))
    insists = (*start, "--login-node", "driver.py")
    done = patient_cluster.sh("ctl", *insists, cwd=tmp_path, env=active(mpich_python), timeout=90)
    assert done.stdout == "on the login node\n", done.stderr
    outcome = "78 CONFIGURATION: 'ctl is a login node: slurm runs no jobs on it'; with --login-node it runs"
    met(Cell(WORLDS, "a login node of Slurm", outcome, seconds, BOUND))
