"""What `rayhpc node` runs: a rank that was started from a terminal, from the meeting to its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from rayhpc.bootstrap import driver
from rayhpc.bootstrap.story import bootstrap
from rayhpc.errors import RayhpcError
from rayhpc.host import this_host
from rayhpc.launch import command_line
from rayhpc.launch.rank import patience
from rayhpc.log import Console
from rayhpc.options import WORKER_OPTIONS, Options, Terminals
from rayhpc.processes import this_process
from rayhpc.processes.signals import unwind_on_signals
from rayhpc.ranks.rendezvous.terminals import join_head, lead


def head(terminals: Terminals, chosen: Options, command: Sequence[str]) -> int:
    """Be rank 0, and hold the cluster where there is no command; the exit code, after telling what went wrong."""
    options = replace(chosen, hold=chosen.hold or not command)

    def work(console: Console) -> int:
        command_line.check(options)
        if not options.hold:
            driver.resolve(command)  # what cannot be run is told before anybody waits for it
        ranks = lead(terminals, options, patience(options, terminals.nodes), os.environ, console.line)
        return bootstrap(options, command, ranks, console)

    return _told(work)


def worker(terminals: Terminals, own: Options) -> int:
    """Be another rank, with the head's options; the exit code, after telling what went wrong."""

    def work(console: Console) -> int:
        ranks, options = join_head(terminals, patience(own, terminals.nodes), os.environ, console.line)
        console.line(f"rank {ranks.rank} of {ranks.size}; the head's terminal tells the rest")
        code = bootstrap(with_own(options, own), (), ranks, console)
        console.line("the head has ended the run")
        return code

    return _told(work)


def with_own(options: Options, own: Options) -> Options:
    """The head's options, with those that this terminal has said itself."""
    said = {name: getattr(own, name) for name in WORKER_OPTIONS}
    return replace(options, **{name: value for name, value in said.items() if value})


def _told(work: Callable[[Console], int]) -> int:
    this_process.open_closed_streams()
    this_process.prepare()
    unwind_on_signals()
    console = Console(this_host.started_at())
    try:
        return work(console)
    except RayhpcError as error:
        console.plain(error.fault.text())
        return int(error.fault.code)
