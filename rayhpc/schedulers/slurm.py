"""Slurm: https://slurm.schedmd.com/sbatch.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES."""

from __future__ import annotations

from rayhpc.schedulers.facts import Environment, Scheduler, whole


def _cpus(environ: Environment) -> int | None:
    return whole(environ, "SLURM_CPUS_ON_NODE")


def _memory(environ: Environment) -> int | None:
    """Slurm counts in MiB; 0 means all of the host."""
    per_node = whole(environ, "SLURM_MEM_PER_NODE")
    per_cpu, cpus = whole(environ, "SLURM_MEM_PER_CPU"), _cpus(environ)
    mebibytes = per_node or (per_cpu * cpus if per_cpu and cpus else 0)
    return mebibytes * 2**20 or None


def _deadline(environ: Environment) -> float | None:
    """Set since Slurm 22.05, and only where the job has a time limit."""
    end = whole(environ, "SLURM_JOB_END_TIME")
    return float(end) if end else None


SLURM = Scheduler("slurm", "SLURM_JOB_ID", _cpus, _memory, _deadline)
