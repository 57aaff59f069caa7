"""`rayhpc lab …`: the workbench; `train --on SCHEDULER` submits the same line as the driver of a job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from rayhpc.batch.submit import plan_submission
from rayhpc.cli.alloc import submit_planned
from rayhpc.cli.base import Told, default_run_dir
from rayhpc.lab import commands
from rayhpc.launch import command_line
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import Request

_ON = click.Option(
    ["--on"],
    type=click.Choice(list(SYSTEMS)),
    help="Submit this line as a job: --on slurm -N 4 -t 60. The options below are the job's.",
)
# What `rayhpc alloc submit` takes beside a request.
_MORE = [
    click.Option(["--script"], default="", metavar="FILE", help="The jobscript; else that of rayhpc."),
    click.Option(["--dry-run"], is_flag=True, help="Print the command and the script; submit nothing."),
    click.Option(["--run-dir"], default="", metavar="DIR", help="Where runs and allocations are recorded."),
]


def _train(on: str | None, **values: Any) -> None:
    own = {str(parameter.name): values.pop(str(parameter.name)) for parameter in commands.train.params}
    if on is None:
        if given := [name for name, value in values.items() if value is not False and value not in (None, "", ())]:
            raise click.UsageError(f"--{given[0].replace('_', '-')} is for a job: give --on {'|'.join(SYSTEMS)} too")
        click.get_current_context().invoke(commands.train, **own)
        return
    commands.check_line(**own)
    script, dry_run = values.pop("script"), values.pop("dry_run")
    run_dir = values.pop("run_dir") or default_run_dir()
    driver = driver_of(own)
    submission = plan_submission(SYSTEMS[on], Request(**values), driver, run_dir, script, os.environ)
    submit_planned(submission, driver, dry_run)


def driver_of(words: Mapping[str, Any]) -> list[str]:
    """The driver of the job: the same line without --on and its options."""
    options = ("config_dir", "config_name")
    named = [f"--{name.replace('_', '-')}={words[name]}" for name in options if words[name]]
    return ["-m", "rayhpc.lab", "train", *named, *(["-m"] if words["multirun"] else []), *words["overrides"]]


def _with_on() -> click.Command:
    """`train` as `python -m rayhpc.lab` has it, with the options of a job."""
    params = [*commands.train.params, _ON, *command_line.parameters(Request), *_MORE]
    return click.Command("train", callback=_train, params=params, help=commands.train.help)


lab = Told(
    "lab",
    commands={**commands.lab.commands, "train": _with_on()},
    help=commands.lab.help,
    context_settings=commands.lab.context_settings,
)
