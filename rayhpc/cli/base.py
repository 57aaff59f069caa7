"""What all commands of the login node have in common: how faults, tables and JSON reach the user."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rayhpc.errors import RayhpcError, configuration
from rayhpc.options import Options
from rayhpc.processes.environment import MARKER
from rayhpc.records.run_directory import plain, write_whole

INTERRUPTED = 130
_LEAST_WIDTH = 100


def default_run_dir() -> str:
    """As the bootstrap's --run-dir; within a driver RAYHPC_RUN_DIR is the directory of that run."""
    default = next(field.default for field in dataclasses.fields(Options) if field.name == "run_dir")
    return str(default) if MARKER in os.environ else os.environ.get("RAYHPC_RUN_DIR") or str(default)


RUN_DIR = click.option(
    "--run-dir", default=default_run_dir, metavar="DIR", help="Where runs and allocations are recorded."
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="For programs.")


class Told(click.Group):
    """Ends with a fault's code after telling it; Ctrl-C ends the watching, never the job."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except RayhpcError as error:
            tell(error.fault.text())
            sys.exit(int(error.fault.code))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def tell(text: str) -> None:
    """To people; standard output is for what scripts read."""
    click.echo(text, err=True)


def json_text(content: Any) -> str:
    """Data of ours as JSON."""
    return json.dumps(content, indent=2, default=plain)


def printable(text: str) -> str:
    """Text of a user's own, such as arguments, in one line and in what a terminal can show."""
    return text.encode(errors="replace").decode().replace("\n", "\\n")


def clipped(text: str, width: int) -> str:
    """The beginning of a text that is too wide for its column."""
    return text if len(text) <= width else text[: width - 1] + "…"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; for a pipe the same columns, divided by tabs."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console, ConsoleDimensions
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    # An id that is cut in two cannot be copied. Without a height rich takes 80 columns where TERM is dumb.
    console.size = ConsoleDimensions(max(console.width, _LEAST_WIDTH), console.height)
    console.print(table)


class WithCommand(click.Command):
    """A command whose words behind `--` are a command of the user's own: its callback gets them as `words`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the user's words out before click drops the `--`."""
        place = args.index("--") if "--" in args else len(args)
        ctx.params["words"] = tuple(args[place + 1 :])
        return super().parse_args(ctx, args[:place])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage, with the user's words."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]

def save(file: Path, content: bytes) -> None:
    """Write a picture; raises RayhpcError where it cannot be written."""
    try:
        write_whole(file, content)
    except OSError as error:
        raise configuration(
            f"{file} cannot be written: {error.strerror}", next_step="name another place with --output"
        ) from error
