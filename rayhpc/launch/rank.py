"""One rank of a launch: it reads its command line, connects to the other ranks, and runs the bootstrap."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from functools import partial

import click

from rayhpc.bootstrap.readiness import default_timeout
from rayhpc.bootstrap.story import EarlyStart, bootstrap
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import this_host
from rayhpc.launch.command_line import parse
from rayhpc.log import Console
from rayhpc.model import HEAD_RANK, Checked
from rayhpc.options import Options
from rayhpc.processes.signals import unwind_on_signals
from rayhpc.ranks import comm, launcher, mpi

_DEPART_SECONDS = 60.0


def run(arguments: Sequence[str], early_start: EarlyStart) -> int:
    """Run this rank to its end; the exit code of the process. early_start: as bootstrap()'s."""
    may_print = launcher.may_print(os.environ)
    try:
        options, driver = _parse(arguments, may_print)
    except click.exceptions.Exit:
        return 0
    except RayhpcError as error:
        return _refuse(error, may_print)
    if options.rendezvous != "mpi":
        unwind_on_signals()
    try:
        ranks = _connect(options, Console(this_host.started_at(), not may_print).line)
    except RayhpcError as error:
        return _report_unmet(error, may_print) if options.check != "no" else _report(error, may_print)
    console = Console(this_host.started_at(), ranks.rank != HEAD_RANK)
    if options.check == "no":
        return bootstrap(options, driver, ranks, console, early_start)
    return _check_first(options, driver, ranks, console, early_start)


def _check_first(
    options: Options, driver: Sequence[str], ranks: comm.Comm, console: Console, early_start: EarlyStart
) -> int:
    """Let all ranks look at their hosts, then run the bootstrap if there is a driver and a run could work."""
    from rayhpc.doctor.ranks import Part, examine  # with its checks, which most launches do without
    from rayhpc.records import bad_hosts

    try:
        result = examine(options, ranks, os.environ)
    except RayhpcError as error:
        console.plain(error.fault.text())
        if isinstance(error, comm.Unreachable):
            ranks.abort(int(error.fault.code))
        ranks.leave()
        return int(error.fault.code) if ranks.rank == HEAD_RANK else 0
    ranks.settle()
    console.plain(result.text)
    if result.part is Part.ENDS and options.register:  # else the run remembers them at its end
        for problem in bad_hosts.remember(os.environ, result.bad):
            console.line(f"WARNING: {problem}")
    if result.part is Part.ENDS or not (driver or options.hold):
        comm.depart(ranks, _DEPART_SECONDS)
        return int(ExitCode.CONFIGURATION) if result.part is Part.ENDS and ranks.rank == HEAD_RANK else 0
    return bootstrap(options, driver, ranks, console, early_start, Checked(result.part is Part.LEFT_OUT, result.bad))


def _report_unmet(error: RayhpcError, aloud: bool) -> int:
    """As _report(), in the words of a check."""
    from rayhpc.doctor.ranks import unmet

    Console(0.0, quiet=not aloud).plain(unmet(error.fault).text)
    return int(ExitCode.CONFIGURATION)


def _parse(arguments: Sequence[str], may_print: bool) -> tuple[Options, list[str]]:
    """Options and the driver's command; raises as parse() does, for --help as well, which one rank prints."""
    with contextlib.nullcontext() if may_print else contextlib.redirect_stdout(io.StringIO()):
        return parse(arguments)


def _refuse(error: RayhpcError, may_print: bool) -> int:
    """End a launch with a wrong command line: its ranks connect, so that one of them alone reports it."""
    try:
        ranks = mpi.connect(os.environ)
    except RayhpcError:
        return _report(error, may_print)
    leads = ranks.rank == HEAD_RANK
    code = _report(error, leads and (ranks.size > 1 or may_print))  # without MPI they do not connect
    ranks.leave()
    return code if leads else 0


def _report(error: RayhpcError, aloud: bool) -> int:
    Console(0.0, quiet=not aloud).plain(error.fault.text())
    return int(error.fault.code)


def _connect(options: Options, tell: Callable[[str], None]) -> comm.Comm:
    """Connect to the other ranks; raises RayhpcError where they do not find each other."""
    if options.rendezvous == "mpi":
        return mpi.connect(os.environ)
    from rayhpc.ranks.rendezvous.meet import meet  # with its cryptography, which MPI does without

    return meet(options, os.environ, partial(patience, options), tell)


def patience(options: Options, ranks: int) -> float:
    """Seconds to wait for so many ranks, and then again for their nodes."""
    return options.timeout or default_timeout(ranks)
