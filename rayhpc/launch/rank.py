"""One rank of a launch: its words are understood, it meets the others, and its part of the story begins."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from functools import partial

import click

from rayhpc.bootstrap.readiness import default_timeout
from rayhpc.bootstrap.story import bootstrap
from rayhpc.errors import RayhpcError
from rayhpc.host import this_host
from rayhpc.launch.command_line import parse
from rayhpc.log import Console
from rayhpc.model import HEAD_RANK
from rayhpc.options import Options
from rayhpc.processes.ray_start import RayStart
from rayhpc.processes.signals import unwind_on_signals
from rayhpc.ranks import comm, launcher, mpi


def run(words: Sequence[str], begun: RayStart | None) -> int:
    """Follow the story to its end; the exit code of the process. begun: a `ray start` that imports Ray already."""
    speaks = launcher.speaks(os.environ)
    try:
        options, driver = _parse(words, speaks)
    except click.exceptions.Exit:
        return 0
    except RayhpcError as error:
        return _refuse(error, speaks)
    if options.rendezvous != "mpi":
        unwind_on_signals()
    try:
        ranks = _meet(options, Console(this_host.started_at(), not speaks).line)
    except RayhpcError as strangers:
        return _told(strangers, speaks)
    return bootstrap(options, driver, ranks, Console(this_host.started_at(), ranks.rank != HEAD_RANK), begun)


def _parse(words: Sequence[str], speaks: bool) -> tuple[Options, list[str]]:
    """Options and the driver's command; raises as parse() does, for --help as well, which one rank prints."""
    with contextlib.nullcontext() if speaks else contextlib.redirect_stdout(io.StringIO()):
        return parse(words)


def _refuse(error: RayhpcError, speaks: bool) -> int:
    """End a launch whose words cannot be understood: its ranks meet, so that one of them says so."""
    try:
        ranks = mpi.connect(os.environ)
    except RayhpcError:
        return _told(error, speaks)
    leads = ranks.rank == HEAD_RANK
    code = _told(error, leads and (ranks.size > 1 or speaks))  # without MPI, ranks with wrong words do not meet
    ranks.leave()
    return code if leads else 0


def _told(error: RayhpcError, aloud: bool) -> int:
    Console(0.0, quiet=not aloud).plain(error.fault.text())
    return int(error.fault.code)


def _meet(options: Options, tell: Callable[[str], None]) -> comm.Comm:
    """Meet the other ranks; raises RayhpcError where they do not find each other."""
    if options.rendezvous == "mpi":
        return mpi.connect(os.environ)
    from rayhpc.ranks import rendezvous  # with its cryptography, which MPI does without

    return rendezvous.meet(options, os.environ, partial(patience, options), tell)


def patience(options: Options, ranks: int) -> float:
    """Seconds to wait for so many ranks, and then again for their nodes."""
    return options.timeout or default_timeout(ranks)
