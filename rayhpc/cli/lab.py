"""`rayhpc lab …`: the workbench; `train --on WHERE` submits the same line as the driver of a job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from rayhpc.cli.base import RUN_DIR, Told
from rayhpc.cli.submit import submit_driver, submit_options
from rayhpc.lab import commands
from rayhpc.schedulers import SYSTEMS
from rayhpc.sites import load as sites


def _places() -> tuple[str, ...]:
    return (*SYSTEMS, *sites.names(os.environ))


def _offered(_: click.Context, __: click.Parameter, begin: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in _places() if name.startswith(begin)]


def _known(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and value not in _places():
        raise click.BadParameter(f"{value!r} is neither a scheduler nor a site; known: {', '.join(_places())}")
    return value


_ON = click.Option(
    ["--on"],
    metavar="WHERE",
    callback=_known,
    shell_complete=_offered,
    help=f"Submit this line as a job: to {', '.join(SYSTEMS)}, or a site (rayhpc alloc sites). "
    "The options below are the job's: --on slurm -N 4 -t 60.",
)


def _train(on: str | None, **values: Any) -> None:
    own = {str(parameter.name): values.pop(str(parameter.name)) for parameter in commands.train.params}
    if on is None:
        context = click.get_current_context()
        if given := [name for name in values if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]:
            raise click.UsageError(f"--{given[0].replace('_', '-')} is for a job: give --on {'|'.join(SYSTEMS)} too")
        context.invoke(commands.train, **own)
        return
    commands.check_line(**own)
    submit_driver(driver_of(own), values, SYSTEMS.get(on), on)


def driver_of(words: Mapping[str, Any]) -> list[str]:
    """The driver of the job: the same line without --on and its options."""
    options = ("config_dir", "config_name")
    named = [f"--{name.replace('_', '-')}={words[name]}" for name in options if words[name]]
    return ["-m", "rayhpc.lab", "train", *named, *(["-m"] if words["multirun"] else []), *words["overrides"]]


def _with_on() -> click.Command:
    """`train` as `python -m rayhpc.lab` has it, with the options of a job."""
    params = [*commands.train.params, _ON, *submit_options()]
    return RUN_DIR(click.Command("train", callback=_train, params=params, help=commands.train.help))


lab = Told(
    "lab",
    commands={**commands.lab.commands, "train": _with_on()},
    help=commands.lab.help,
    context_settings=commands.lab.context_settings,
)
