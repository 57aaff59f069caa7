"""IBM Spectrum LSF."""

from __future__ import annotations

import socket

from rayhpc.schedulers.facts import Environment, Scheduler


def _cpus(environ: Environment) -> int | None:
    """LSB_MCPU_HOSTS is 'hostA 16 hostB 16': the slots of the job on each host."""
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    slots = {
        name.partition(".")[0]: int(count)
        for name, count in zip(words[::2], words[1::2], strict=False)
        if count.isdigit()
    }
    return slots.get(socket.gethostname().partition(".")[0])


LSF = Scheduler("lsf", "LSB_JOBID", _cpus)
