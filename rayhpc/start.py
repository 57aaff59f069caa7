"""`mpirun -np N python -m rayhpc.start DRIVER …`: the bootstrap, run by every rank."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

import click

from rayhpc import comm, host
from rayhpc.bootstrap.readiness import default_timeout
from rayhpc.bootstrap.story import bootstrap
from rayhpc.commandline import parse
from rayhpc.errors import RayhpcError
from rayhpc.keeper import become_subreaper, write_no_core_files
from rayhpc.log import Console
from rayhpc.model import HEAD_RANK, Options
from rayhpc.signals import unwind_on_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; the exit code of the process, which is the job's on rank 0."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    open_closed_streams()
    speaks = comm.speaks(os.environ)
    parsed, error = _parse(words, speaks)
    if parsed is None and error is None:
        return 0
    prepare_process()
    options, driver = parsed or (Options(), [])
    if options.rendezvous != "mpi":
        unwind_on_signals()
    try:
        ranks = meet(options, Console(host.started_at(), not speaks).line)
    except RayhpcError as strangers:
        Console(0.0, quiet=not speaks).plain((error or strangers).fault.text())
        return int((error or strangers).fault.code)
    console = Console(host.started_at(), quiet=ranks.rank != HEAD_RANK)
    if parsed is None:
        assert error is not None
        if ranks.size > 1 or speaks:  # without MPI, ranks with wrong words do not meet
            console.plain(error.fault.text())
        ranks.leave()
        return int(error.fault.code) if ranks.rank == HEAD_RANK else 0
    return bootstrap(options, driver, ranks, console, os.environ)


def meet(options: Options, tell: Callable[[str], None]) -> comm.Comm:
    """Meet the other ranks; raises RayhpcError where they do not find each other."""
    if options.rendezvous == "mpi":
        return comm.connect(os.environ)
    from rayhpc import rendezvous  # with its cryptography, which MPI does without

    return rendezvous.meet(options, os.environ, partial(patience, options), tell)


def patience(options: Options, ranks: int) -> float:
    """Seconds to wait for so many ranks, and then again for their nodes."""
    return options.timeout or default_timeout(ranks)


def prepare_process() -> None:
    """What every rank does first: answer for its descendants, keep no secret in a core file, mend its GPUs' names."""
    become_subreaper()
    write_no_core_files()
    os.environ.update(host.mended_gpus(os.environ))


def open_closed_streams() -> None:
    """Put /dev/null where standard input, output or error is closed: else the next pipe of ours would be there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    # Python has None for what was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _parse(words: Sequence[str], speaks: bool) -> tuple[tuple[Options, list[str]] | None, RayhpcError | None]:
    """The parsed command line, or why it cannot be parsed; neither after --help, which one rank prints."""
    try:
        with contextlib.nullcontext() if speaks else contextlib.redirect_stdout(io.StringIO()):
            return parse(words), None
    except click.exceptions.Exit:
        return None, None
    except RayhpcError as error:
        return None, error


if __name__ == "__main__":
    sys.exit(main())  # not os._exit: MPICH takes its leave of mpiexec in the C library's exit handlers
