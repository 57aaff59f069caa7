"""How ranks know that they are ranks, and how they agree: by value or by fault, never by waiting for the dead."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.ranks import comm, mpi
from rayhpc.ranks.comm import SoloComm, Unreachable, agree
from rayhpc.ranks.launcher import Launched, launched, may_print
from rayhpc.ranks.mpi import connect

# What each launcher puts into the environment of rank 3 of 4, as far as it matters.
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "PMI_FD": "8", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "3", "PMIX_NAMESPACE": "prterun-1"}
MVAPICH = {"MV2_COMM_WORLD_RANK": "3", "MV2_COMM_WORLD_SIZE": "4", "PMI_RANK": "3", "PMI_SIZE": "4"}
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
BATCH_SHELL = {**JOB, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4"}
STEP = {**JOB, "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"}
# Hydra starts one proxy a host by srun: the step's variables are the proxy's.
PROXY = {**JOB, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}

RANK_3_OF_4 = {
    "MPICH's mpiexec": (HYDRA, Launched("mpiexec", 3, 4)),
    "Open MPI's mpirun": (OPEN_MPI, Launched("Open MPI's mpirun", 3, 4)),
    "MVAPICH's mpirun": (MVAPICH, Launched("MVAPICH's mpirun", 3, 4)),
    "srun --mpi=none": (STEP, Launched("srun", 3, 4)),
    "srun --mpi=pmi2": ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4", "PMI_FD": "9"}, Launched("srun", 3, 4)),
    "srun --mpi=pmix": ({**STEP, "PMIX_RANK": "3", "PMIX_NAMESPACE": "slurm.pmix"}, Launched("srun", 3, 4)),
    "mpiexec in a batch script": ({**PROXY, **HYDRA}, Launched("mpiexec", 3, 4)),
    "mpirun in a batch script": ({**PROXY, **OPEN_MPI}, Launched("Open MPI's mpirun", 3, 4)),
    "mpiexec of an unknown PMI": ({"PMI_RANK": "3", "PMI_SIZE": "4"}, Launched("mpiexec", 3, 4)),
    "PMIx alone": ({"PMIX_RANK": "3"}, Launched("PMIx", 3, None)),
    "aprun": ({"ALPS_APP_PE": "3", "PBS_JOBID": "7"}, Launched("aprun", 3, None)),
    "PALS without PMI": ({"PALS_RANKID": "3", "PBS_JOBID": "7"}, Launched("PALS", 3, None)),
}
ALONE = {
    "a terminal": {},
    "a shell in a batch script of Slurm": BATCH_SHELL,
    "a shell in a job of PBS": {"PBS_JOBID": "7.server", "PBS_NODEFILE": "/var/spool/7"},
    "a shell in a job of LSF": {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "n1 4"},
    "half of Hydra's variables": {"PMI_RANK": "0"},
}


@pytest.mark.parametrize(("environ", "expected"), RANK_3_OF_4.values(), ids=RANK_3_OF_4)
def test_a_launched_rank_knows_it(environ: Mapping[str, str], expected: Launched) -> None:
    assert launched(environ) == expected
    assert not may_print(environ)


@pytest.mark.parametrize("environ", ALONE.values(), ids=ALONE)
def test_a_started_process_is_alone(environ: Mapping[str, str]) -> None:
    assert launched(environ) is None
    assert may_print(environ)
    assert isinstance(connect(environ), SoloComm)


@pytest.mark.parametrize("environ", [HYDRA, OPEN_MPI, STEP, {"ALPS_APP_PE": "3"}])
def test_exactly_one_of_the_ranks_speaks(environ: Mapping[str, str]) -> None:
    printing = [rank for rank in range(4) if may_print({k: str(rank) if v == "3" else v for k, v in environ.items()})]
    assert printing == [0]


# '²': str.isdigit() is true of it, and int() raises.
@pytest.mark.parametrize("value", ["", "three", "-1", " 3", "²"])
def test_a_number_that_is_none_is_unknown(value: str) -> None:
    assert launched({"PMIX_RANK": value}) == Launched("PMIx", None, None)


class FakeMpi:
    """MPI_COMM_WORLD as it would be found."""

    rank = 0
    size = 4
    library = "MPICH Version: 5.0"
    settled = False

    def __init__(self, by: str) -> None:
        self.by = by

    def settle(self) -> None:
        type(self).settled = True


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> type[FakeMpi]:
    class World(FakeMpi):
        pass

    monkeypatch.setattr(mpi, "MpiComm", World)
    return World


@pytest.mark.parametrize(("environ", "_"), RANK_3_OF_4.values(), ids=RANK_3_OF_4)
def test_ranks_that_find_each_other_connect(world: type[FakeMpi], environ: Mapping[str, str], _: Launched) -> None:
    assert isinstance(connect(environ), world)


@pytest.mark.parametrize(
    "environ",
    [
        {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALNRANKS": "1"},
        {**JOB, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # the shell that salloc opens
    ],
)
def test_a_single_rank_needs_no_mpi(world: type[FakeMpi], environ: Mapping[str, str]) -> None:
    assert isinstance(connect(environ), SoloComm)


@pytest.mark.parametrize(
    ("environ", "library", "advice"),
    [
        (STEP, "MPICH Version: 5.0", "srun --mpi=pmi2"),
        (STEP, "Open MPI v5.0.8", "srun --mpi=pmix"),
        (HYDRA, "Open MPI v5.0.8", "the mpiexec that belongs to Open MPI v5.0.8"),
    ],
)
def test_strangers_are_told_how_to_meet(
    world: type[FakeMpi], environ: Mapping[str, str], library: str, advice: str
) -> None:
    world.size, world.library = 1, library
    with pytest.raises(RayhpcError, match="started 4 processes, but MPI sees 1") as caught:
        connect(environ)
    assert caught.value.fault.code == ExitCode.CONFIGURATION
    assert advice in caught.value.fault.next_step
    assert world.settled


@pytest.mark.parametrize("error", [ImportError("libmpi.so.12: not found"), RuntimeError("cannot load MPI library")])
def test_without_an_mpi_library_the_launch_is_refused(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def missing(_: str) -> NoReturn:
        raise error

    monkeypatch.setattr(mpi, "MpiComm", missing)
    with pytest.raises(RayhpcError, match="MPI cannot be loaded") as caught:
        connect(HYDRA)
    assert caught.value.fault.evidence == (str(error),)
    assert "rayhpc[mpich]" in caught.value.fault.next_step


def test_solo_writes_to_itself_in_order_and_to_nobody_else() -> None:
    solo = SoloComm()
    solo.send(0, "first")
    solo.send(0, "second")
    assert [solo.receive(), solo.receive(), solo.receive()] == [(0, "first"), (0, "second"), None]
    with pytest.raises(ValueError, match="no rank 1"):
        solo.send(1, "lost")


SETTLED = """
import mmap, os, pathlib, sys
from rayhpc.ranks.mpi import MpiComm
path = pathlib.Path("/dev/shm", sys.argv[1])
path.write_bytes(b"x" * 4096)
with path.open("r+b") as file:
    shared = mmap.mmap(file.fileno(), 4096)
MpiComm.settle(object.__new__(MpiComm))
assert not path.exists()
assert shared[:1] == b"x"
MpiComm.settle(object.__new__(MpiComm))
"""


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this host has no /dev/shm")
def test_shared_memory_without_a_name_cannot_be_left_behind() -> None:
    name = f"rayhpc test {os.getpid()}"
    try:
        done = subprocess.run([sys.executable, "-c", SETTLED, name], capture_output=True, text=True, check=False)
    finally:
        Path("/dev/shm", name).unlink(missing_ok=True)
    assert (done.returncode, done.stderr) == (0, "")


# agree(): ranks are threads, their connection is queues, and what they send must survive pickling.


class Queued:
    """A rank among threads."""

    def __init__(self, rank: int, boxes: list[queue.Queue[tuple[int, bytes]]]) -> None:
        self.rank, self.size, self._boxes = rank, len(boxes), boxes
        self.gone: frozenset[int] = frozenset()

    def send(self, to: int, message: object) -> None:
        self._boxes[to].put((self.rank, pickle.dumps(message)))

    def receive(self) -> tuple[int, Any] | None:
        try:
            sender, message = self._boxes[self.rank].get_nowait()
        except queue.Empty:
            return None
        return sender, pickle.loads(message)

    def settle(self) -> None:
        pass

    def leave(self) -> None:
        pass

    def abort(self, code: int) -> NoReturn:
        raise AssertionError(f"nobody asked for abort({code})")


def together(size: int, work: Callable[[Queued], Any], absent: frozenset[int] = frozenset()) -> dict[int, Any]:
    """What each rank's work returned or raised; no rank may still wait after ten seconds."""
    boxes: list[queue.Queue[tuple[int, bytes]]] = [queue.Queue() for _ in range(size)]
    results: dict[int, Any] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(Queued(rank, boxes))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size) if rank not in absent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert not any(thread.is_alive() for thread in threads), "a rank waits for ever"
    return results


def exchange(
    ranks: Queued, local: Callable[[], Any], combine: Callable[[list[Any]], list[Any]] = list, timeout: float = 5.0
) -> Any:
    return agree(ranks, f"rank {ranks.rank} on h{ranks.rank}", local, combine, timeout)


def fault_of(result: object) -> Fault:
    assert isinstance(result, RayhpcError)
    return result.fault


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_rank_gets_its_share(size: int) -> None:
    results = together(
        size, lambda ranks: exchange(ranks, lambda: ranks.rank * 10, lambda values: [(v, sum(values)) for v in values])
    )
    assert results == {rank: (rank * 10, sum(range(size)) * 10) for rank in range(size)}


def test_agreements_follow_each_other_without_mixing() -> None:
    def work(ranks: Queued) -> list[Any]:
        return [exchange(ranks, lambda turn=turn: (turn, ranks.rank)) for turn in range(20)]  # type: ignore[misc]

    assert together(4, work) == {rank: [(turn, rank) for turn in range(20)] for rank in range(4)}


@pytest.mark.parametrize("faulty", [0, 2])
def test_a_fault_on_one_rank_is_raised_on_all(faulty: int) -> None:
    def local(rank: int) -> int:
        if rank == faulty:
            raise configuration("/tmp is full", "df /tmp", next_step="use --temp-dir")
        return rank

    results = together(4, lambda ranks: exchange(ranks, lambda: local(ranks.rank)))
    faults = {fault_of(result) for result in results.values()}
    assert len(faults) == 1
    (fault,) = faults
    assert (fault.what, fault.where, fault.code) == (
        "/tmp is full",
        f"rank {faulty} on h{faulty}",
        ExitCode.CONFIGURATION,
    )
    assert fault.evidence == ("df /tmp",)


def test_the_same_fault_on_several_ranks_joins_their_places() -> None:
    def local(rank: int) -> int:
        if rank in (1, 3):
            raise configuration("/tmp is full", next_step="use --temp-dir")
        return rank

    fault = fault_of(together(4, lambda ranks: exchange(ranks, lambda: local(ranks.rank)))[2])
    assert sorted(fault.where.split(", ")) == ["rank 1 on h1", "rank 3 on h3"]
    assert fault.evidence == ()


def test_another_fault_is_evidence_of_the_first() -> None:
    def local(rank: int) -> NoReturn:
        raise RayhpcError(Fault(f"trouble {rank}", ExitCode.CONFIGURATION, at=100.0 - rank))

    fault = fault_of(together(2, lambda ranks: exchange(ranks, lambda: local(ranks.rank)))[0])
    assert (fault.what, fault.evidence) == ("trouble 1", ("also: trouble 0 [rank 0 on h0]",))


@pytest.mark.parametrize("faulty", [0, 1])
def test_an_exception_is_a_bug_with_its_traceback_and_strands_nobody(faulty: int) -> None:
    def local(rank: int) -> float:
        return 1 / (rank - faulty)

    results = together(3, lambda ranks: exchange(ranks, lambda: local(ranks.rank)))
    for result in results.values():
        fault = fault_of(result)
        assert (fault.code, fault.what) == (ExitCode.INTERNAL, "unexpected ZeroDivisionError: division by zero")
        assert fault.where == f"rank {faulty} on h{faulty}"
        assert any("return 1 / (rank - faulty)" in line for line in fault.evidence)


@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), ExitCode.INTERNAL), (None, ExitCode.CONFIGURATION)])
def test_a_fault_of_the_combination_is_raised_on_all(error: Exception | None, code: ExitCode) -> None:
    def combine(_: list[Any]) -> list[Any]:
        raise error or configuration("versions differ", next_step="activate one environment")

    results = together(3, lambda ranks: exchange(ranks, lambda: ranks.rank, combine))
    assert {fault_of(result).code for result in results.values()} == {code}
    assert {fault_of(result).where for result in results.values()} == {"rank 0 on h0"}


def test_the_combination_is_rank_0s_alone() -> None:
    where: list[int] = []

    def work(ranks: Queued) -> Any:
        return exchange(ranks, lambda: ranks.rank, lambda values: where.append(ranks.rank) or values)  # type: ignore[func-returns-value]

    together(3, work)
    assert where == [0]


def test_a_missing_rank_is_named_within_the_time() -> None:
    began = time.monotonic()
    results = together(4, lambda ranks: exchange(ranks, lambda: ranks.rank, timeout=0.2), absent=frozenset({2, 3}))
    assert time.monotonic() - began < 5.0
    assert isinstance(results[0], Unreachable)
    assert fault_of(results[0]).what.startswith("no message from rank 2, 3 within")
    assert fault_of(results[0]).code == ExitCode.BRING_UP
    assert isinstance(results[1], Unreachable)
    assert fault_of(results[1]).what.startswith("no message from rank 0 within")


def test_rank_0_missing_is_noticed_by_the_others() -> None:
    results = together(3, lambda ranks: exchange(ranks, lambda: ranks.rank, timeout=0.1), absent=frozenset({0}))
    assert [type(results[rank]) for rank in (1, 2)] == [Unreachable, Unreachable]


def test_a_long_traceback_is_cut_to_its_end() -> None:
    def deep(level: int) -> int:
        return deep(level - 1) if level else int("x")

    with pytest.raises(ValueError, match="invalid literal") as caught:
        deep(30)
    fault = comm.internal(caught.value)
    assert len(fault.evidence) == 10
    assert fault.evidence[-1].startswith("ValueError")


MPICH = "MPICH Version:      5.0.2\nMPICH Device:       ch4:{}\nMPICH CC: cc -lucx -lofi\n"


@pytest.mark.parametrize(
    ("library", "by", "wanted"),
    [
        (MPICH.format("ucx ofi"), "srun", {"MPIR_CVAR_CH4_NETMOD": "ofi"}),
        (MPICH.format("ucx ofi"), "mpiexec", {}),
        (MPICH.format("ucx"), "srun", {}),  # a build that has no other
        (MPICH.format("ofi"), "srun", {}),
        ("Open MPI v5.0.11, package: ucx ofi", "srun", {}),
    ],
)
def test_mpich_under_srun_meets_over_ofi(
    library: str, by: str, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPIR_CVAR_CH4_NETMOD", raising=False)
    assert mpi.network(library, by) == wanted


def test_the_users_choice_of_a_network_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIR_CVAR_CH4_NETMOD", "ucx")
    assert mpi.network(MPICH.format("ucx ofi"), "srun") == {}
