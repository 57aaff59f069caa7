"""PBS Pro, OpenPBS, Torque and Cobalt."""

from __future__ import annotations

from rayhpc.schedulers.facts import Environment, Scheduler, whole


def _cpus(environ: Environment) -> int | None:
    """PBS Pro sets NCPUS on the first host, Torque PBS_NUM_PPN."""
    return whole(environ, "NCPUS") or whole(environ, "PBS_NUM_PPN")


def _cobalt_deadline(environ: Environment) -> float | None:
    end = whole(environ, "COBALT_ENDTIME")
    return float(end) if end else None


PBS = Scheduler("pbs", "PBS_JOBID", _cpus)
COBALT = Scheduler("cobalt", "COBALT_JOBID", deadline=_cobalt_deadline)
