"""`rayhpc …`: the login node's command. Works without MPI and without importing Ray."""

from __future__ import annotations

import importlib
import sys

import click

from rayhpc import __version__
from rayhpc.cli.alloc import alloc
from rayhpc.cli.check import check
from rayhpc.cli.cluster import cluster
from rayhpc.cli.completion import completion
from rayhpc.cli.job import job
from rayhpc.cli.node import node
from rayhpc.cli.runs import runs
from rayhpc.cli.sweep import sweep

LAZY = {"doctor": "rayhpc.cli.doctor", "kube": "rayhpc.cli.kube.commands", "lab": "rayhpc.cli.lab"}


class Lazy(click.Group):
    """A group whose rarer commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted([*super().list_commands(ctx), *LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(importlib.import_module(LAZY[cmd_name]), cmd_name)
        return command


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Inside an allocation: mpirun -np 4 python -m rayhpc.start --help",
)
@click.version_option(__version__, message="rayhpc %(version)s")
def main() -> None:
    """Ray clusters on supercomputers: start one in a batch job, run a driver on it, shut it down."""


@main.command(
    "start",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def start(arguments: tuple[str, ...]) -> None:
    """Run the bootstrap, as `python -m rayhpc.start` does: --help shows its options."""
    from rayhpc.start import main as bootstrap

    sys.exit(bootstrap(arguments))


main.add_command(alloc)
cluster.add_command(check)
main.add_command(cluster)
main.add_command(completion)
main.add_command(node)
main.add_command(runs)
main.add_command(job)
main.add_command(sweep)


if __name__ == "__main__":
    main()
