"""`rayhpc doctor`: look at this host, and explain what is looked at."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from rayhpc import finding
from rayhpc.cli.base import JSON_OPTION, Told, json_text, tell
from rayhpc.doctor import catalog
from rayhpc.doctor.here import Here
from rayhpc.doctor.look import look
from rayhpc.errors import ExitCode
from rayhpc.finding import Verdict
from rayhpc.host import this_host
from rayhpc.options import Options

_HELP = "Checks to make, as `explain` names them. Repeatable, or with commas."


def _ids(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in value.split(",") if word]


@click.group("doctor", cls=Told, invoke_without_command=True)
@click.option("--only", multiple=True, callback=_ids, metavar="ID", help=_HELP)
@click.option("--skip", multiple=True, callback=_ids, metavar="ID", help=_HELP.replace("to make", "to leave out"))
@click.option("--dashboard", is_flag=True, help="As for a run with --dashboard.")
@click.option("--temp-dir", default="", metavar="DIR", help="As for a run with --temp-dir.")
@click.option("--run-dir", default=Options().run_dir, metavar="DIR", help="As for a run with --run-dir.")
@JSON_OPTION
@click.pass_context
def doctor(context: click.Context, /, only: list[str], skip: list[str], as_json: bool, **values: Any) -> None:
    """Look at this host: could it be part of a run? Ends with 78 if not.

    All hosts of a job, and the ways between them, without starting Ray:

    \b
      mpirun -np 4 python -m rayhpc.start --check
      rayhpc alloc submit slurm -N 4 --check -- train.py
    """
    if context.invoked_subcommand:
        return
    began, here = time.monotonic(), Here(Options(**values), os.environ)
    checks = catalog.chosen(catalog.of(here), only, skip)
    found = finding.joined(look(checks, here))
    if as_json:
        click.echo(json_text({"checks": [finding.name(check) for check in checks], "findings": found}))
    else:
        looked = f"{len(checks)} checks on {this_host.name()} in {time.monotonic() - began:.1f} s"
        tell(finding.report(found, f"rayhpc doctor: {looked}"))
    sys.exit(int(ExitCode.CONFIGURATION) if finding.worst(found) is Verdict.FAIL else 0)


@doctor.command("explain")
@click.argument("check_id", required=False, metavar="[ID]")
@click.option("--all", "every", is_flag=True, help="All of them, as docs/checks.md.")
def explain(check_id: str | None, every: bool) -> None:
    """What a check looks at, why, and what to do; without an ID the list of all checks."""
    if every:
        click.echo(catalog.page(), nl=False)
    elif check_id is None:
        for check in catalog.EXPLAINED:
            click.echo(f"{finding.name(check):<18} {catalog.title(check)}")
    else:
        check = catalog.find(check_id, catalog.EXPLAINED)
        click.echo(f"{check_id}: {catalog.title(check)}\n\n{catalog.explanation(check)}")
