"""A rank that never joins: the others say that they wait, and leave nothing when they are ended in MPI_Init."""

from __future__ import annotations

import re
import signal
import time

from tests.launch import Jobs, nothing_left


def test_a_rank_that_never_joins(jobs_of: Jobs) -> None:
    """After ten seconds; the launcher, told to end, ends them where Python has no say."""
    mpi = jobs_of.mpi
    rank = [mpi.python, "-m", "rayhpc.start", "/bin/true"]
    with nothing_left(jobs_of.directory):
        began = time.monotonic()
        job = jobs_of.start_raw(*mpi.mpirun, "-np", "2", *rank, ":", "-np", "1", "sleep", "100")
        for number in (0, 1):
            job.until(rf"rank {number} of 3 on \S+ \(pid \d+, started by .+\) has waited 10 s in MPI_Init", 40)
        assert time.monotonic() - began < 30
        assert not re.search("rank 2", job.output())
        job.process.send_signal(signal.SIGTERM)
        assert job.wait(30) != 0
