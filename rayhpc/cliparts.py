"""What the groups of `rayhpc …` share: faults are told, tables and JSON printed, options that all of them have."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from rayhpc.environment import MARKER
from rayhpc.errors import RayhpcError
from rayhpc.model import Options
from rayhpc.records import plain

_INTERRUPTED = 130


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
            sys.exit(_INTERRUPTED)


def tell(text: str) -> None:
    """To people; standard output is for what scripts read."""
    click.echo(text, err=True)


def default_run_dir() -> str:
    """As the bootstrap's --run-dir; within a driver RAYHPC_RUN_DIR is the directory of that run."""
    default = next(field.default for field in dataclasses.fields(Options) if field.name == "run_dir")
    return str(default) if MARKER in os.environ else os.environ.get("RAYHPC_RUN_DIR") or str(default)


RUN_DIR = click.option(
    "--run-dir", default=default_run_dir, metavar="DIR", help="Where runs and allocations are recorded."
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


def to_json(content: Any) -> str:
    """What --json prints."""
    return json.dumps(content, indent=2, default=plain)


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on a terminal; for a pipe the same columns, divided by tabs."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
