"""What `rayhpc node` runs: a rank that a user starts from a terminal, from the rendezvous to its exit code."""

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
from rayhpc.ranks.rendezvous.inputs import own_address
from rayhpc.ranks.rendezvous.terminals import join_head, lead


def head(terminals: Terminals, chosen: Options, command: Sequence[str]) -> int:
    """Be rank 0, and hold the cluster where there is no command; the exit code, after telling what went wrong.

    terminals.head: this host by the address that it shall have in the cluster; --interface wins.
    """
    options = replace(chosen, hold=chosen.hold or not command)

    def rank(console: Console) -> int:
        command_line.check(options)
        address = own_address(terminals.head) if terminals.head and not options.interface else ""
        if not options.hold:
            driver.resolve(command)  # a driver that cannot run is reported before anybody waits
        meeting, seconds = replace(terminals, head=address), patience(options, terminals.nodes)
        ranks = lead(meeting, options, seconds, os.environ, console.line)
        return bootstrap(replace(options, interface=options.interface or address), command, ranks, console)

    return _reporting(rank)


def worker(terminals: Terminals, chosen: Options) -> int:
    """Be another rank, with the head's options; the exit code, after telling what went wrong."""

    def rank(console: Console) -> int:
        ranks, options = join_head(terminals, patience(chosen, terminals.nodes), os.environ, console.line)
        console.line(f"rank {ranks.rank} of {ranks.size}; the head's terminal tells the rest")
        code = bootstrap(with_worker_options(options, chosen), (), ranks, console)
        console.line("the head has ended the run")
        return code

    return _reporting(rank)


def with_worker_options(options: Options, chosen: Options) -> Options:
    """The head's options, with those that this terminal has said itself."""
    named = {name: getattr(chosen, name) for name in WORKER_OPTIONS}
    return replace(options, **{name: value for name, value in named.items() if value})


def _reporting(rank: Callable[[Console], int]) -> int:
    this_process.open_closed_streams()
    this_process.prepare()
    unwind_on_signals()
    console = Console(this_host.started_at())
    try:
        return rank(console)
    except RayhpcError as error:
        console.plain(error.fault.text())
        return int(error.fault.code)
