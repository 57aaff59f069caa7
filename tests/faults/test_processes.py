"""Each process of a run on one host is killed, ended politely, and stopped: the run ends, or goes on, in time."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM

import pytest

from rayhpc.errors import ExitCode
from rayhpc.host import this_host
from tests.faults.cells import FAULTS, Cell, met
from tests.faults.victims import DRIVER, Victims, parent_of
from tests.launch import Job, Jobs, launched_in, left_over, ours, until

pytestmark = pytest.mark.cluster

# What the design promises, in seconds: a death is noticed, and a hang; the driver climbs its ladder where it hangs at a
# head that has gone; all is given back.
DEATH, HANG, LADDER, GIVEN_BACK = 2.0, 15.0, 2.5, 2.0
CONTINUE, ABORT = "--on-node-loss=continue", "--on-node-loss=abort"


@dataclass(frozen=True)
class Run:
    """A job whose driver is up, the processes of its run, and its two ranks."""

    job: Job
    victims: Victims
    ranks: tuple[int, int]

    def hit(self, pid: int, signum: signal.Signals) -> float:
        """Signal one process of the run; when that was."""
        began = time.monotonic()
        os.kill(pid, signum)
        return began

    def ends(self, began: float, seconds: float) -> tuple[int, float]:
        """The exit code of the job, and the seconds since the fault."""
        code = self.job.wait(seconds)
        return code, time.monotonic() - began

    def goes_on(self, seconds: float) -> None:
        """Fails if the job ends within these seconds."""
        assert not until(lambda: self.job.process.poll() is not None, seconds), self.job.output()

    def works(self) -> None:
        """Rank 1's node still runs tasks."""
        os.kill(self.ranks[0], signal.SIGUSR1)
        self.job.until("a task ran in", 30)

    def said(self, pattern: str) -> str:
        """The words of the output that match; fails with the output where there are none."""
        found = re.search(pattern, self.job.output())
        assert found, self.job.output()
        return found.group()


@dataclass(frozen=True)
class Fault:
    """A signal to one process of a run, and what comes of it.

    code: the job's exit code, None where the run goes on; says: words of the output; bound: seconds to the end of the
    job, or to the words where the run goes on.
    """

    victim: str
    signum: signal.Signals
    find: Callable[[Victims], int]
    code: int | None = None
    says: str = ""
    bound: float = 0.0
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        policy = ", abort" if ABORT in self.options else ""
        return f"{self.victim}, {self.signum.name}{policy}"

    def met(self, where: str, outcome: str, seconds: float) -> None:
        met(Cell(FAULTS, f"{self.name}; {where}", outcome, seconds, self.bound))


def bring_up(jobs: Jobs, *options: str, child: bool = False) -> Run:
    """Two ranks on this host, and the driver at work."""
    (jobs.directory / "job").mkdir()
    (jobs.directory / "job" / "driver.py").write_text(DRIVER)
    job = jobs.start(*options, "driver.py", *(["--child"] if child else []), ranks=2)
    job.until("driver up", 120)
    victims = Victims(job.run.name)
    return Run(job, victims, (victims.rank(0), victims.rank(1)))


def cells(*faults: Fault, quick: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parameters of a test, those of them marked that the quick matrix has."""
    marks = {True: (pytest.mark.quick,), False: ()}
    return pytest.mark.parametrize("fault", [pytest.param(f, id=f.name, marks=marks[f.name in quick]) for f in faults])


def ended(code: int) -> str:
    """An exit code as the table has it; a driver's own has no name."""
    return f"{code} {ExitCode(code).name}" if code in (ExitCode.HEAD_LOST, ExitCode.NODE_LOST) else f"{code}"


def gcs_server(victims: Victims) -> int:
    return victims.daemon(0, "gcs_server")


def head_raylet(victims: Victims) -> int:
    return victims.daemon(0, "raylet")


def worker_raylet(victims: Victims) -> int:
    return victims.daemon(1, "raylet")


def head_ray_start(victims: Victims) -> int:
    return victims.ray_start(0)


def worker_ray_start(victims: Victims) -> int:
    return victims.ray_start(1)


def dashboards_stand_in(victims: Victims) -> int:
    return victims.daemon(1, "sleep")


def runtime_env_agent(victims: Victims) -> int:
    """One that nobody has called yet."""
    return victims.running(1, "deferred_agent.py")


def worker_keeper(victims: Victims) -> int:
    return victims.keeper(1)


GCS_ENDED = r"the head is lost: (its GCS has ended|the Ray node ended with 1)  \[rank 0 on \S+\]"
HEAD_ENDED = r"the head is lost: the Ray node ended with 1  \[rank 0 on \S+\]"
HEAD_KILLED = r"the head is lost: the Ray node was killed by SIGKILL  \[rank 0 on \S+\]"
# It takes GCS and raylet along: any of the three is seen first.
HEAD_GONE = (
    r"the head is lost: (its GCS has ended|the Ray node ended with 1|Ray has declared the node dead)  \[rank 0 on \S+\]"
)
HEAD_SILENT = r"the head is lost: the head has not answered for 12 s  \[rank 0 on \S+\]"
HEAD_DEAD = r"the head is lost: Ray has declared the node dead  \[rank 0 on \S+\]"
ENDED = r"the Ray node ended with 1  \[rank 1 on \S+\]"
# `ray start` takes its raylet along, which takes its leave: the node table or the end of `ray start` is seen first.
ENDED_OR_DEAD = r"(the Ray node ended with 1|Ray has declared the node dead)  \[rank 1 on \S+\]"
KILLED = r"the Ray node was killed by SIGKILL  \[rank 1 on \S+\]"
DEAD = r"Ray has declared the node dead  \[rank 1 on \S+\]"
SILENT = r"the rank has not been heard of for 12 s  \[rank 1 on \S+\]"
AT_ONCE = DEATH + LADDER + GIVEN_BACK
HUNG = HANG + LADDER + GIVEN_BACK


@cells(
    Fault("gcs_server", SIGKILL, gcs_server, 73, GCS_ENDED, AT_ONCE),
    Fault("gcs_server", SIGTERM, gcs_server, 73, GCS_ENDED, AT_ONCE),
    Fault("gcs_server", SIGSTOP, gcs_server, 73, HEAD_SILENT, HUNG),
    Fault("head's ray start", SIGKILL, head_ray_start, 73, HEAD_KILLED, AT_ONCE),
    Fault("head's ray start", SIGTERM, head_ray_start, 73, HEAD_GONE, AT_ONCE),
    Fault("head's ray start", SIGSTOP, head_ray_start, 73, HEAD_SILENT, HUNG),
    Fault("head raylet", SIGKILL, head_raylet, 73, HEAD_ENDED, AT_ONCE),
    Fault("head raylet", SIGTERM, head_raylet, 73, HEAD_DEAD, AT_ONCE),
    Fault("head raylet", SIGSTOP, head_raylet, 73, HEAD_DEAD, HUNG),
    Fault("worker raylet", SIGKILL, worker_raylet, 74, ENDED, AT_ONCE, (ABORT,)),
    Fault("worker raylet", SIGTERM, worker_raylet, 74, DEAD, AT_ONCE, (ABORT,)),
    Fault("worker raylet", SIGSTOP, worker_raylet, 74, DEAD, HUNG, (ABORT,)),
    Fault("worker's ray start", SIGKILL, worker_ray_start, 74, KILLED, AT_ONCE, (ABORT,)),
    Fault("worker's ray start", SIGTERM, worker_ray_start, 74, ENDED_OR_DEAD, AT_ONCE, (ABORT,)),
    quick=("gcs_server, SIGKILL", "head's ray start, SIGSTOP", "head raylet, SIGTERM", "worker raylet, SIGTERM, abort"),
)
def test_a_ray_process_ends_the_run(jobs: Jobs, fault: Fault) -> None:
    """The first cause is named, the driver is told, and has the last word."""
    run = bring_up(jobs, *fault.options)
    code, seconds = run.ends(run.hit(fault.find(run.victims), fault.signum), fault.bound + 30)
    assert code == fault.code, run.job.output()
    assert "last words" in run.job.output()
    fault.met("MPICH, one host", f"{ended(code)}: '{run.said(fault.says)}'", seconds)


LOST_ENDED = r"LOST rank 1 on \S+: the Ray node ended with 1; the run goes on with 1 node"
LOST_KEEPER = (
    r"LOST rank 1 on \S+: the Ray node's parent, a keeper of rayhpc, was killed by SIGKILL, and the node with it; "
    r"the run goes on with 1 node"
)
LOST_KILLED = r"LOST rank 1 on \S+: the Ray node was killed by SIGKILL; the run goes on with 1 node"
LOST_DEAD = r"LOST rank 1 on \S+: Ray has declared the node dead; the run goes on with 1 node"
LOST = r"LOST rank 1 on \S+: .*; the run goes on with 1 node"
LOST_RANK = r"LOST rank 1 on \S+: the rank has not been heard of for 12 s; the run goes on with 1 node"


@cells(
    Fault("worker raylet", SIGKILL, worker_raylet, None, LOST_ENDED, DEATH),
    Fault("worker raylet", SIGTERM, worker_raylet, None, LOST_DEAD, DEATH),
    Fault("worker raylet", SIGSTOP, worker_raylet, None, LOST_DEAD, HANG),
    Fault("worker's ray start", SIGKILL, worker_ray_start, None, LOST_KILLED, DEATH),
    Fault("worker's ray start", SIGTERM, worker_ray_start, None, LOST, DEATH),
    Fault("stand-in for a worker's dashboard agent", SIGKILL, dashboards_stand_in, None, LOST, DEATH),
    Fault("stand-in for a worker's dashboard agent", SIGTERM, dashboards_stand_in, None, LOST, DEATH),
    Fault("worker's runtime environment agent", SIGKILL, runtime_env_agent, None, LOST, DEATH),
    Fault("worker's runtime environment agent", SIGTERM, runtime_env_agent, None, LOST, DEATH),
    Fault("worker's keeper", SIGKILL, worker_keeper, None, LOST_KEEPER, DEATH),
    quick=("worker raylet, SIGKILL",),
)
def test_a_ray_process_costs_its_node(jobs: Jobs, fault: Fault) -> None:
    """The run goes on without it, by default, and says so; at its end nothing is left."""
    run = bring_up(jobs, *fault.options)
    began = run.hit(fault.find(run.victims), fault.signum)
    run.job.until(fault.says, fault.bound + 30)
    seconds = time.monotonic() - began
    run.goes_on(1.0)
    os.kill(run.ranks[0], signal.SIGTERM)
    assert run.job.wait(30) == 9, run.job.output()
    fault.met("MPICH, one host", f"goes on: '{run.said(fault.says)}'", seconds)


@cells(
    Fault("worker's ray start", SIGSTOP, worker_ray_start),
    Fault("stand-in for a worker's dashboard agent", SIGSTOP, dashboards_stand_in),
    Fault("worker's runtime environment agent", SIGSTOP, runtime_env_agent),
    Fault("worker's keeper", SIGSTOP, worker_keeper),
    Fault("worker's keeper", SIGTERM, worker_keeper),
    quick=("worker's keeper, SIGSTOP",),
)
def test_a_ray_process_costs_nothing(jobs: Jobs, fault: Fault) -> None:
    """The node's tasks do not need it: the run goes on, and its end is as quick as ever."""
    run = bring_up(jobs)
    run.hit(fault.find(run.victims), fault.signum)
    run.goes_on(HANG)
    run.works()
    began = run.hit(run.ranks[0], SIGTERM)
    code, seconds = run.ends(began, 30)
    assert code == 9, run.job.output()
    assert "LOST" not in run.job.output()
    bound = AT_ONCE
    met(Cell(FAULTS, f"{fault.name}; MPICH, one host", "goes on, and ends as ever (the seconds)", seconds, bound))


@cells(
    Fault("process of an actor with a setsid child", SIGKILL, lambda victims: victims.titled(1, "ray::Victim")),
    Fault("process of an actor with a setsid child", SIGTERM, lambda victims: victims.titled(1, "ray::Victim")),
    Fault("process of an actor with a setsid child", SIGSTOP, lambda victims: victims.titled(1, "ray::Victim")),
)
def test_a_process_of_an_actor(jobs: Jobs, fault: Fault) -> None:
    """It is the driver's to notice; at the end of the run its child is gone, although it left its group and session."""
    run = bring_up(jobs, child=True)
    child = run.victims.child(1, "ray::Victim")
    run.hit(fault.find(run.victims), fault.signum)
    run.works()
    began = run.hit(run.ranks[0], SIGTERM)
    code, seconds = run.ends(began, 30)
    assert code == 9, run.job.output()
    assert until(lambda: child not in [pid for pid, _ in ours([run.job.run.name])], 1.0)
    outcome = "goes on; the end takes the child along (the seconds)"
    met(Cell(FAULTS, f"{fault.name}; MPICH, one host", outcome, seconds, AT_ONCE))


# --------------------------------------------------------------------------------------------------- the driver


@cells(
    Fault("driver", SIGKILL, Victims.driver, 137, "the driver was ended by SIGKILL", DEATH + GIVEN_BACK),
    Fault("driver", SIGTERM, Victims.driver, 9, "the driver ended with 9", DEATH + GIVEN_BACK),
    quick=("driver, SIGKILL",),
)
def test_the_driver_decides(jobs: Jobs, fault: Fault) -> None:
    run = bring_up(jobs)
    code, seconds = run.ends(run.hit(run.victims.driver(), fault.signum), 30)
    assert code == fault.code, run.job.output()
    assert ("last words" in run.job.output()) == (fault.signum == SIGTERM)
    fault.met("MPICH, one host", f"{code}: '{run.said(fault.says)}'", seconds)


def test_a_driver_that_ray_ends_after_the_users_signal(jobs: Jobs) -> None:
    """Ray's handler of SIGTERM ends a driver without one of its own with 15; the job has 143, as for other programs."""
    code = "import ray, time; ray.init(log_to_driver=False); print('driver up', flush=True); time.sleep(600)"
    job = jobs.start("--", "python", "-c", code, ranks=2)
    job.until("driver up", 120)
    began = time.monotonic()
    job.process.send_signal(SIGTERM)
    assert job.wait(30) == 143, job.output()
    assert "the driver was ended by SIGTERM" in job.output()
    seconds = time.monotonic() - began
    met(Cell(FAULTS, "the job, SIGTERM, a driver without a handler; MPICH, one host", "143", seconds, AT_ONCE))


@pytest.mark.quick
def test_a_stopped_driver_and_the_users_signal(jobs: Jobs) -> None:
    """It hears no signal while it is stopped: it has its --stop-timeout, then the ladder, which ends with SIGKILL."""
    run = bring_up(jobs, "--stop-timeout=2")
    run.hit(run.victims.driver(), SIGSTOP)
    run.goes_on(2.0)
    code, seconds = run.ends(run.hit(run.job.process.pid, SIGTERM), 30)
    assert code == 137, run.job.output()
    assert run.said("the driver has not ended: ending it")
    outcome = "goes on until a signal to the job: 137 after --stop-timeout=2 (the seconds)"
    met(Cell(FAULTS, "driver, SIGSTOP; MPICH, one host", outcome, seconds, 2.0 + AT_ONCE))


def test_a_stopped_driver_and_the_end_of_the_job(jobs: Jobs) -> None:
    """With --walltime nobody need watch: it is over six seconds before the scheduler would kill."""
    began = time.monotonic()
    run = bring_up(jobs, "--walltime=45", "--grace=5")
    run.hit(run.victims.driver(), SIGSTOP)
    code, seconds = run.ends(began, 60)
    assert code == 137, run.job.output()
    assert run.said("the end of the job: ending the driver")
    outcome = "goes on until the end of the job: 137 (the seconds) before --walltime=45"
    met(Cell(FAULTS, "driver, SIGSTOP, --walltime; MPICH, one host", outcome, seconds, 45.0))


# ----------------------------------------------------------------------------------------- ranks and launcher

LAUNCHERS_WORD = r"EXIT CODE: 9|exited on\s+signal 9"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(jobs_of: Jobs, rank: int) -> None:
    """The launcher ends the other ranks at once and has its own word for it; keepers give everything back."""
    run = bring_up(jobs_of)
    code, seconds = run.ends(run.hit(run.ranks[rank], SIGKILL), 30)
    assert code == {"mpich": 9, "openmpi": 137}[jobs_of.mpi.name], run.job.output()
    outcome = f"{code}, the launcher's: '{run.said(LAUNCHERS_WORD)}'"
    met(Cell(FAULTS, f"rank {rank}'s Python, SIGKILL; {jobs_of.mpi.name}, one host", outcome, seconds, DEATH + LADDER))
    gone(run, f"rank {rank}'s Python, SIGKILL, the last orphan; {jobs_of.mpi.name}, one host", seconds)


@pytest.mark.quick
def test_a_rank_is_killed_after_its_node(jobs: Jobs) -> None:
    """The keeper of a node that has ended still answers for its private directory, with the token in it."""
    run = bring_up(jobs)
    run.hit(worker_ray_start(run.victims), SIGKILL)
    run.job.until(LOST_KILLED, 30)
    _, seconds = run.ends(run.hit(run.ranks[1], SIGKILL), 30)
    gone(run, "rank 1's Python after the loss of its node, SIGKILL, the last orphan; MPICH, one host", seconds)


def gone(run: Run, what: str, already: float) -> None:
    """Nothing is left five seconds after the fault."""
    began = time.monotonic() - already
    assert until(lambda: not left_over(run.job.directory), 15), left_over(run.job.directory)
    met(Cell(FAULTS, what, "no process, no directory", time.monotonic() - began, 5.0))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_ended(jobs: Jobs, rank: int) -> None:
    """A signal to a rank is the user's signal to the driver."""
    run = bring_up(jobs)
    code, seconds = run.ends(run.hit(run.ranks[rank], SIGTERM), 30)
    assert code == 9, run.job.output()
    assert "last words" in run.job.output()
    outcome = f"{code}, the driver's: '{run.said('SIGTERM: passed to the driver')}'"
    met(Cell(FAULTS, f"rank {rank}'s Python, SIGTERM; MPICH, one host", outcome, seconds, DEATH + GIVEN_BACK))


@cells(
    Fault("rank 1's Python", SIGSTOP, lambda victims: victims.rank(1), 74, SILENT, HUNG, (ABORT,)),
)
def test_a_rank_is_stopped(jobs: Jobs, fault: Fault) -> None:
    run = bring_up(jobs, *fault.options)
    code, seconds = run.ends(run.hit(run.ranks[1], SIGSTOP), fault.bound + 30)
    assert code == fault.code, run.job.output()
    assert "last words" in run.job.output()
    fault.met("MPICH, one host", f"{ended(code)}: '{run.said(fault.says)}'", seconds)


def test_a_rank_is_stopped_and_the_run_goes_on(jobs: Jobs) -> None:
    """Its node works all the same; at the end the rank is aborted."""
    run = bring_up(jobs)
    began = run.hit(run.ranks[1], SIGSTOP)
    run.job.until(LOST_RANK, HANG + 15)
    seconds = time.monotonic() - began
    run.works()
    os.kill(run.ranks[0], SIGTERM)
    assert run.job.wait(30) == 9, run.job.output()
    outcome = f"goes on: '{run.said(LOST_RANK)}'"
    met(Cell(FAULTS, "rank 1's Python, SIGSTOP; MPICH, one host", outcome, seconds, HANG))


def test_the_first_rank_is_stopped(jobs: Jobs) -> None:
    """Nobody leads any more: the others end the run."""
    run = bring_up(jobs)
    code, seconds = run.ends(run.hit(run.ranks[0], SIGSTOP), HANG + 30)
    assert code == 73, run.job.output()
    assert run.said(r"rank 0 has not been heard of for 12 s  \[rank 1 on \S+\]")
    met(Cell(FAULTS, "rank 0's Python, SIGSTOP; MPICH, one host", ended(code), seconds, HANG + GIVEN_BACK))


@pytest.mark.quick
def test_the_launcher_is_killed(jobs_of: Jobs) -> None:
    """Nobody is left who could end with an exit code; the ranks' keepers give everything back, and say so."""
    run = bring_up(jobs_of)
    code, seconds = run.ends(run.hit(run.job.process.pid, SIGKILL), 30)
    assert code == -SIGKILL
    assert until((run.job.run / "outcome.json").exists, 10)
    outcome = run.job.record("outcome.json")
    assert (outcome["code"], outcome["cause"]) == (137, f"rank 0 on {this_host.name()} was killed, or its launcher was")
    gone(run, f"mpiexec, SIGKILL, the last orphan; {jobs_of.mpi.name}, one host", seconds)


@pytest.mark.quick
def test_the_launcher_is_killed_before_the_ranks_have_met(jobs_of: Jobs) -> None:
    """What each of them has begun already goes with it."""
    job = jobs_of.start("/bin/true", ranks=2)
    begun = lambda: [pid for pid, command in launched_in(job.directory) if "ray_command.py" in command]  # noqa: E731
    assert until(lambda: len(begun()) == 2, 30), job.output()
    keepers = [parent_of(pid) for pid in begun()]
    job.process.kill()
    began = time.monotonic()
    assert job.wait(30) == -SIGKILL
    assert "ranks on" not in job.output()
    assert until(lambda: not launched_in(job.directory), 30), launched_in(job.directory)
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in keepers), 5), keepers
    what = f"mpiexec, SIGKILL before the ranks have met, the last orphan; {jobs_of.mpi.name}, one host"
    met(Cell(FAULTS, what, "no process, no directory", time.monotonic() - began, 5.0))


def test_the_launcher_is_ended(jobs_of: Jobs) -> None:
    """MPICH's passes the signal to the ranks and ends with the driver's code; Open MPI's kills them and ends with 1."""
    run = bring_up(jobs_of)
    code, seconds = run.ends(run.hit(run.job.process.pid, SIGTERM), 30)
    assert code == {"mpich": 9, "openmpi": 1}[jobs_of.mpi.name], run.job.output()
    met(Cell(FAULTS, f"mpiexec, SIGTERM; {jobs_of.mpi.name}, one host", f"{code}", seconds, DEATH + GIVEN_BACK))


def test_a_script_above_the_launcher_is_killed(jobs: Jobs) -> None:
    """Intel's mpirun is such a script; this one is a stand-in above MPICH's mpiexec, which the run goes on with."""
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "driver.py").write_text(DRIVER)
    start = [*jobs.mpi.mpirun, "-np", "2", jobs.mpi.python, "-m", "rayhpc.start", "driver.py"]
    job = jobs.start_raw("sh", "-c", '"$@"; exit $?', "mpirun", *start)
    job.until("driver up", 120)
    victims = Victims(job.run.name)
    run = Run(job, victims, (victims.rank(0), victims.rank(1)))
    mpiexec = parent_of(parent_of(run.ranks[0]))
    assert parent_of(mpiexec) == job.process.pid
    job.process.kill()
    assert job.wait() == -SIGKILL
    os.kill(run.ranks[0], signal.SIGUSR1)
    assert until(lambda: "a task ran in" in job.output(), 30), job.output()
    began = run.hit(mpiexec, SIGTERM)
    assert until(lambda: not launched_in(directory), 30), job.output()
    assert "last words" in job.output()
    outcome = "goes on; given back after SIGTERM to mpiexec (the seconds)"
    what = "a shell script above mpiexec, as Intel's mpirun is, SIGKILL; MPICH, one host"
    met(Cell(FAULTS, what, outcome, time.monotonic() - began, DEATH + GIVEN_BACK))


def test_the_launcher_is_stopped(jobs: Jobs) -> None:
    """The run neither needs it nor waits for it: all is given back, and its code comes when it is continued."""
    run = bring_up(jobs)
    run.hit(run.job.process.pid, SIGSTOP)
    run.goes_on(HANG)
    began = run.hit(run.ranks[0], SIGTERM)
    mark = run.job.run.name
    assert until(lambda: not ours([mark]), 30), run.job.output()
    seconds = time.monotonic() - began
    assert run.job.process.poll() is None
    os.kill(run.job.process.pid, signal.SIGCONT)
    assert run.job.wait(10) == 9, run.job.output()
    assert "last words" in run.job.output()
    outcome = "goes on; given back at its end (the seconds); after SIGCONT 9, the driver's"
    met(Cell(FAULTS, "mpiexec, SIGSTOP; MPICH, one host", outcome, seconds, AT_ONCE))
