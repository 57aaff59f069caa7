"""Ranks over MPI. The only owner of mpi4py.

A rank never blocks in MPI: a rank that spins in a barrier takes a core from the Ray node that starts beside it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from rayhpc.errors import RayhpcError, configuration
from rayhpc.messages import Mail
from rayhpc.ranks import launcher
from rayhpc.ranks.comm import Comm, SoloComm
from rayhpc.ranks.init_watch import watched
from rayhpc.ranks.launcher import SRUN, Launched

# MPI_Init waits for ranks that a busy scheduler starts late; MPI_Finalize does not wait for a rank that is lost.
_INIT_SECONDS = 300.0
_FINALIZE_SECONDS = 30.0
_LEAVING_IGNORES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_NETMOD = "MPIR_CVAR_CH4_NETMOD"


class MpiComm:
    """MPI_COMM_WORLD, used without blocking and without collectives."""

    gone: frozenset[int] = frozenset()

    def __init__(self, start: Launched) -> None:
        """Meet the other ranks; start: how this one was launched."""
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI

        version = MPI.Get_library_version()
        with watched(start), _ending_after(_INIT_SECONDS), _setting(network(version, start.by)):
            MPI.Init_thread(MPI.THREAD_FUNNELED)
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self._sending: list[Any] = []
        self.rank: int = self._world.Get_rank()
        self.size: int = self._world.Get_size()
        self.library: str = version.split("\n")[0].split(",")[0].strip()

    def send(self, to: int, message: Mail) -> None:
        """Start a send and remember it until it is complete."""
        self._sending.append(self._world.isend(message, dest=to))
        self._sending = [request for request in self._sending if not request.Test()]

    def receive(self) -> tuple[int, Mail] | None:
        """Receive what a probe finds; a probe also drives the sends that are under way."""
        status = self._mpi.Status()
        message = self._world.improbe(status=status)
        return (status.Get_source(), message.recv()) if message else None

    def settle(self) -> None:
        """Unlink what the ranks of a host need only to find each other: MPI's shared memory, the launcher's topology.

        MPI_Finalize and the launcher's end do so: those of a rank or a launcher that is killed would stay for ever.
        """
        for path in [*launcher.shared_memory(), *launcher.topology_files()]:
            path.unlink(missing_ok=True)

    def leave(self) -> None:
        """MPI_Finalize, which waits for all ranks; from here on signals are ignored, since everything is shut down.

        srun --kill-on-bad-exit ends with the greatest code: a rank that it signals because rank 0 has ended with 7
        must still end with 0, however slowly.
        """
        for signum in _LEAVING_IGNORES:
            signal.signal(signum, signal.SIG_IGN)
        with _ending_after(_FINALIZE_SECONDS):
            self._mpi.Request.Waitall(self._sending)
            self._mpi.Finalize()

    def abort(self, code: int) -> NoReturn:
        """MPI_Abort, once the launcher has read what was written: what it has not is lost with this process."""
        self.settle()
        sys.stdout.flush()
        sys.stderr.flush()
        launcher.wait_for_readers()
        self._world.Abort(code)
        os._exit(code)


@contextlib.contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """End this process, with the place in the code where it waits, unless the block is left in time.

    MPI's own waits keep Python's lock, so that no thread and no signal handler could do it.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _setting(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def network(library: str, by: str) -> dict[str, str]:
    """What MPI_Init shall find in the environment: MPICH meets over OFI where srun starts it.

    Over UCX it publishes 4 KiB, an address and whatever lies behind it in memory, in lines of which Slurm's pmi2 cuts
    the longest (MPICH 5.0.2, Slurm 22.05): every other start failed or hung, depending on what else was in memory.
    """
    device = next((line for line in library.splitlines() if line.startswith("MPICH Device:")), "")
    able = "ucx" in device and "ofi" in device
    return {_NETMOD: "ofi"} if by == SRUN and able and _NETMOD not in os.environ else {}


_WITHOUT_MPI = "or meet without MPI: --rendezvous=slurm"


def connect(environ: Mapping[str, str]) -> Comm:
    """Meet the other ranks; raises RayhpcError where MPI is missing or where the ranks do not find each other."""
    start = launcher.launched(environ)
    if start is None or (start.size == 1 and start.rank in (0, None)):
        return SoloComm()
    try:
        comm = MpiComm(start)
    except (ImportError, RuntimeError) as error:
        raise configuration(
            f"{start.by} started this process, but MPI cannot be loaded",
            str(error),
            next_step="install an MPI library beside mpi4py: pip install 'rayhpc[mpich]', or load the site's module"
            + (f"; {_WITHOUT_MPI}" if start.by == SRUN else ""),
        ) from error
    if start.size is not None and comm.size != start.size:
        comm.settle()
        raise _size_mismatch(start, comm)
    return comm


def _size_mismatch(start: Launched, comm: MpiComm) -> RayhpcError:
    """The error of N processes that each see one rank: the launcher and the MPI library do not fit."""
    flag = "pmix" if "Open MPI" in comm.library else "pmi2"
    if start.by == SRUN:
        step = f"tell srun how this MPI starts: srun --mpi={flag} …  (srun --mpi=list shows all); {_WITHOUT_MPI}"
    else:
        step = f"use the mpiexec that belongs to {comm.library}, or reinstall mpi4py for the one that is on PATH"
    return configuration(
        f"{start.by} started {start.size} processes, but MPI sees {comm.size}: each would become a cluster of its own",
        f"MPI library: {comm.library}",
        next_step=step,
    )
