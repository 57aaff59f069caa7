"""What each batch system calls things: a scheduler is a value, a table of names and a few pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from rayhpc.schedulers.facts import Scheduler
from rayhpc.schedulers.lsf import LSF
from rayhpc.schedulers.pbs import COBALT, PBS
from rayhpc.schedulers.slurm import SLURM

ALL: tuple[Scheduler, ...] = (SLURM, COBALT, PBS, LSF)


def detect(environ: Mapping[str, str]) -> Scheduler | None:
    """The scheduler whose job this process is part of; None outside a job."""
    return next((scheduler for scheduler in ALL if scheduler.job_id in environ), None)
