"""The commands of `rayhpc` and of `python -m rayhpc.start` as plain data, for pages and manuals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from rayhpc.cli import main
from rayhpc.launch import command_line


@dataclass(frozen=True)
class Choice:
    """One option: its flags with what they take, its help, its default and variable, both empty where there is none."""

    flags: str
    text: str
    default: str
    variable: str


@dataclass(frozen=True)
class Verb:
    """One command: the words that call it, its usage, its help, its options, and the commands below it."""

    words: str
    usage: str
    short: str
    text: str
    choices: tuple[Choice, ...]
    below: tuple[str, ...]


def start() -> Verb:
    """`python -m rayhpc.start`."""
    context = click.Context(command_line.command(), info_name="python -m rayhpc.start", auto_envvar_prefix="RAYHPC")
    return _verb(command_line.command(), context)


def verbs() -> Iterator[Verb]:
    """`rayhpc` and every command below it, in the order of its help."""
    yield from _walk(main.main, click.Context(main.main, info_name="rayhpc"))


def _walk(command: click.Command, context: click.Context) -> Iterator[Verb]:
    yield _verb(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden and context.command_path + " " + name != "rayhpc start":
                yield from _walk(below, _below(below, context, name))


def _below(command: click.Command, parent: click.Context, name: str) -> click.Context:
    """A context as the command itself would make it, with its prefix of variables."""
    prefix = command.context_settings.get("auto_envvar_prefix")
    return click.Context(command, parent=parent, info_name=name, auto_envvar_prefix=prefix)


def _verb(command: click.Command, context: click.Context) -> Verb:
    below = command.list_commands(context) if isinstance(command, click.Group) else []
    return Verb(
        context.command_path,
        " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        command.get_short_help_str(limit=200),
        (command.help or "").replace("\f", ""),
        tuple(_choices(command, context)),
        tuple(below),
    )


def _choices(command: click.Command, context: click.Context) -> Iterator[Choice]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if not isinstance(parameter, click.Option) or record is None or "--help" in parameter.opts:
            continue
        details = parameter.get_help_extra(context)
        yield Choice(record[0], parameter.help or "", str(details.get("default", "")), _variable(parameter, context))


def _variable(option: click.Option, context: click.Context) -> str:
    if option.envvar:
        return option.envvar if isinstance(option.envvar, str) else ", ".join(option.envvar)
    if option.allow_from_autoenv and context.auto_envvar_prefix and option.name:
        return f"{context.auto_envvar_prefix}_{option.name.upper()}"
    return ""
