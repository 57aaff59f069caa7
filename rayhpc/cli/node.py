"""`rayhpc node …`: the ranks of a run, started one by one from terminals instead of by a launcher."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from rayhpc.launch import command_line
from rayhpc.options import WORKER_OPTIONS, Options, Terminals

_MEETING = {"auto_envvar_prefix": "RAYHPC", "max_content_width": 100, "help_option_names": ["-h", "--help"]}
_HEAD_HELP = """Start rank 0 in this terminal, wait for the workers of the others, run DRIVER, end them all.

Without a DRIVER the cluster is held until Ctrl-C. --port and RAYHPC_PORT are where the terminals meet; Ray's own port
is a free one. RAY_HEAD_IP and RAY_HEAD_PORT are read where these are not set.

\b
  rayhpc node head --nodes 2 -- train_ppo.py --lr 3e-4
"""
_WORKER_HELP = """Start another rank in this terminal; it ends with the head.

The head's options hold here, too, but for those below. Either may be started first. RAY_HEAD_IP and RAY_HEAD_PORT are
read where neither --head nor RAYHPC_HEAD is set.

\b
  rayhpc node worker --head 192.0.2.2:7000
"""


@click.group("node")
def node() -> None:
    """A cluster from several terminals, without MPI: a head, and workers that come to it."""


def _head(command: tuple[str, ...], port: int, nodes: int, token_file: str, **values: Any) -> None:
    from rayhpc.launch import terminals

    meeting = Terminals(os.environ.get("RAY_HEAD_IP", ""), port, nodes, token_file)
    sys.exit(terminals.head(meeting, command_line.chosen(values), command))


def _worker(head: str, port: int, token_file: str, **values: Any) -> None:
    from rayhpc.launch import terminals

    meeting = Terminals(head=head, port=port, token_file=token_file)
    sys.exit(terminals.worker(meeting, command_line.chosen(values)))


node.add_command(
    click.Command(
        "head",
        callback=_head,
        params=[
            *command_line.parameters(Terminals, without=("head",)),
            *command_line.parameters(Options, without=("port", "rendezvous", "check", "check_skip", "join")),
            click.Argument(["command"], nargs=-1, type=click.UNPROCESSED, metavar="[DRIVER [ITS ARGUMENTS]...]"),
        ],
        help=_HEAD_HELP,
        short_help="Rank 0, which runs the driver.",
        options_metavar="[OPTIONS] [--]",
        context_settings={**_MEETING, "allow_interspersed_args": False},
    )
)
node.add_command(
    click.Command(
        "worker",
        callback=_worker,
        params=[
            *command_line.parameters(Terminals, without=("nodes",)),
            *command_line.parameters(Options, names=WORKER_OPTIONS),
        ],
        help=_WORKER_HELP,
        short_help="Another rank.",
        context_settings=_MEETING,
    )
)
