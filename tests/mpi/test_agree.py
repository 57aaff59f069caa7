"""agree() over real MPI: values, faults, silent ranks; run as a program by the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import Jobs, of_mpi, until

pytestmark = pytest.mark.mpi

PROGRAM = r"""
import os, sys, time
from rayhpc.ranks import comm as ranks
from rayhpc.ranks import mpi
from rayhpc.errors import RayhpcError, configuration
comm = mpi.connect(os.environ)
def local():
    if sys.argv[1] == "one" and comm.rank == comm.size - 1:
        raise configuration("no luck", next_step="try again")
    if sys.argv[1] == "bug" and comm.rank == 0:
        return 1 // 0
    if sys.argv[1] == "silent" and comm.rank == comm.size - 1:
        time.sleep(60)
    return comm.rank ** 2
try:
    share = ranks.agree(comm, f"rank {comm.rank}", local, lambda all: [sum(all)] * len(all), 3.0)
    os.write(1, f"share {share}\n".encode())  # one write: the ranks share the output
    code = 0
except RayhpcError as error:
    if comm.rank == 0:
        print(error.fault.text(), flush=True)
    if isinstance(error, ranks.Unreachable):
        comm.abort(int(error.fault.code))
    code = int(error.fault.code) if comm.rank == 0 else 0
comm.leave()
sys.exit(code)
"""


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("how", "code"), [("all", 0), ("one", 78), ("bug", 70), ("silent", 71)])
def test_agree(jobs_of: Jobs, tmp_path: Path, ranks: int, how: str, code: int) -> None:
    program = tmp_path / "agree.py"
    program.write_text(PROGRAM)
    mpi, before = jobs_of.mpi, of_mpi()
    job = jobs_of.start_raw(*mpi.mpirun, "-np", str(ranks), mpi.python, str(program), how)
    assert job.wait(40) == code, job.output()
    assert until(lambda: of_mpi() <= before, 10), of_mpi() - before
    if how == "all":
        assert job.output().count(f"share {sum(n * n for n in range(ranks))}") == ranks
    if how == "silent":
        assert f"no message from rank {ranks - 1} within 3 s" in job.output()


ABORT = r"""
import os
from rayhpc.ranks import comm as ranks
from rayhpc.ranks import mpi
comm = mpi.connect(os.environ)
if comm.rank == 0:
    print("last words", flush=True)
    comm.abort(71)
while True:
    comm.receive()
"""


def test_last_words_before_an_abort_arrive(jobs_of: Jobs, tmp_path: Path) -> None:
    """Launchers drop what they have not read when a rank aborts; an idle machine is fast enough, so several at once."""
    program = tmp_path / "abort.py"
    program.write_text(ABORT)
    start = [*jobs_of.mpi.mpirun, "-np", "2", jobs_of.mpi.python, str(program)]
    for round_ in range(4):
        started = [jobs_of.start_raw(*start, name=f"job{round_}-{number}") for number in range(4)]
        for job in started:
            assert job.wait(40) == 71, job.output()
            assert "last words" in job.output()
