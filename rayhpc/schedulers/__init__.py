"""What each batch system calls things: a scheduler is a value, a table of names and a few pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from rayhpc.schedulers.cobalt import COBALT, COBALT_SYSTEM
from rayhpc.schedulers.facts import BatchSystem, Scheduler
from rayhpc.schedulers.flux import FLUX, FLUX_SCRIPT, FLUX_SYSTEM
from rayhpc.schedulers.lsf import LSF, LSF_SYSTEM
from rayhpc.schedulers.pbs import PBS, PBS_SYSTEM, TORQUE_SYSTEM
from rayhpc.schedulers.sge import SGE, SGE_SYSTEM
from rayhpc.schedulers.slurm import SLURM, SLURM_SYSTEM

ALL: tuple[Scheduler, ...] = (SLURM, COBALT, PBS, LSF, SGE, FLUX_SCRIPT, FLUX)
SYSTEMS: dict[str, BatchSystem] = {
    system.name: system
    for system in (SLURM_SYSTEM, PBS_SYSTEM, TORQUE_SYSTEM, COBALT_SYSTEM, LSF_SYSTEM, SGE_SYSTEM, FLUX_SYSTEM)
}


def detect(environ: Mapping[str, str]) -> Scheduler | None:
    """The scheduler whose job this process is part of; None outside a job."""
    return next(
        (scheduler for scheduler in ALL if {scheduler.job_id, scheduler.also or scheduler.job_id} <= environ.keys()),
        None,
    )
