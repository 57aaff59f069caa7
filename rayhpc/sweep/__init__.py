"""Sweeps: many trials of any program over one cluster, recorded so that none is lost and none runs twice.

Imports jobs.job_file, processes, host, records and the root; Ray and Optuna inside of functions only.
"""

from rayhpc.sweep.report import report

__all__ = ["report"]
