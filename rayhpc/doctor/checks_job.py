"""Checks of the job that we are in. Rank 0 alone makes them: each asks the scheduler."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from rayhpc.bootstrap import plan
from rayhpc.doctor.here import Here
from rayhpc.errors import shortened
from rayhpc.finding import Finding, warn
from rayhpc.host import this_host
from rayhpc.ranks import launcher
from rayhpc.schedulers import commands

# Of the host's memory, in relation to the CPUs that the job has of it.
_LEAST_SHARE = 0.25


def login_node(here: Here) -> Iterator[Finding]:
    """The ranks were started on hosts on which the scheduler runs jobs.

    `mpirun` on a login node, or in the shell that salloc has left there, would start Ray where nobody may work.
    """
    if here.meeting and not here.options.login_node:
        plan.check_login_node(this_host.name(), here.environ)
    yield from ()


def deadline(here: Here) -> Iterator[Finding]:
    """The end of the job is known, and is not over.

    From it rayhpc signals the driver in time for a checkpoint. Where the scheduler does not answer on a compute host,
    say --walltime.
    """
    options, now = here.options, here.now
    if here.scheduler is None or options.walltime:
        return
    end: float | None = options.deadline
    problem = ""
    if not end:
        said = here.job if here.scheduler.deadline(here.environ) is None else None
        end, problem = commands.deadline(here.scheduler, here.environ, now, said)
    if problem:
        yield warn(
            "the end of the job is not known: the driver gets no signal before it",
            problem,
            next_step="--walltime HH:MM:SS as in the jobscript; or ask the site to allow the question",
        )
    plan.check_time_left(end or 0.0, now, f"{here.scheduler.name}; clock of {this_host.name()}")


def requeue(here: Here) -> Iterator[Finding]:
    """A job that wants to be requeued may be, and can ask for it from here.

    The jobscript runs a job again whose driver ends with 75: under Slurm by `scontrol requeue`, which is refused for a
    job of --no-requeue, under PBS by `qsub`, which some sites have on login hosts alone.
    """
    if here.environ.get("RAYHPC_REQUEUE") != "yes" or here.scheduler is None:
        return
    step = "submit again by hand, with RAYHPC_REQUEUE=no; or ask the site"
    if here.scheduler.name == "slurm":
        text, problem = here.job
        if problem:
            yield warn("Slurm does not answer on this host: the job cannot requeue itself", problem, next_step=step)
        elif "Requeue=0" in text.split():
            yield warn(
                "this job may not be requeued, and its jobscript wants to",
                "Slurm says: Requeue=0",
                next_step="submit with --requeue, or say RAYHPC_REQUEUE=no",
            )
    elif here.scheduler.name == "pbs" and not shutil.which("qsub"):
        yield warn("there is no qsub on this host: the job cannot submit itself again", next_step=step)


def job_memory(here: Here) -> Iterator[Finding]:
    """The job has as fair a share of the memory as of the CPUs.

    Without --mem many sites grant some GiB for each job, also beside --exclusive. Ray plans with what was granted.
    """
    memory = here.scheduler.memory(here.environ) if here.scheduler else None
    cpus = here.scheduler.cpus(here.environ) if here.scheduler else None
    if memory and cpus:
        total, all_cpus = this_host.total_memory(), this_host.cpu_count()
        if memory / total < _LEAST_SHARE * min(1.0, cpus / all_cpus):
            yield warn(
                f"the job has {memory >> 20} MiB of each host's memory, for {cpus} CPUs",
                f"the host has {total >> 20} MiB and {all_cpus} CPUs",
                next_step="ask for more: --mem=0 is all of a host in Slurm, mem= in PBS's select",
            )


def unused_hosts(here: Here) -> Iterator[Finding]:
    """Each host of the job has a rank.

    Hosts without one are paid for and idle: the launcher was told another number of ranks, or of ranks on each host.
    """
    unused = here.meeting.unused if here.meeting else ()
    if unused:
        yield warn(
            f"hosts of the job have no rank: {shortened(list(unused))}",
            next_step=f"start a rank on each: {launcher.on_hosts(here.meeting.hosts + len(unused), here.environ)}"
            if here.meeting
            else "",
        )
