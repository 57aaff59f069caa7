"""The command line of the bootstrap, made from the fields of Options."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import types
import typing
from collections.abc import Collection, Sequence
from typing import Any

import click
from click.core import ParameterSource

from rayhpc import __version__, units
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.launch import ray_args
from rayhpc.options import OBJECT_STORE_MINIMUM, Options
from rayhpc.processes import environment

# Variables that describe the run to its driver. They have names of options, which a second run inside must not read.
_SET_FOR_DRIVERS = ("run_dir", "deadline")
# Flags that may stand alone, as they are meant then.
_BARE = {
    flag: f"{flag}={field.metadata['bare']}"
    for field in dataclasses.fields(Options)
    if "bare" in field.metadata
    for flag in ["--" + field.name.replace("_", "-")]
}
_USAGE = "[OPTIONS] DRIVER [ARGUMENTS OF THE DRIVER]..."
_HELP = """Start a Ray cluster in this allocation, run DRIVER on it, and shut everything down.

DRIVER is a .py file, -m package.module, or any executable; what follows it is its own. It finds the cluster by a
plain ray.init(); {address} in its arguments is replaced. Its standard input is empty: what it reads comes from files or
arguments. The exit code is the driver's; docs/exit-codes.md has ours.

\b
  mpirun -np 4 python -m rayhpc.start train_ppo.py --lr 3e-4
  mpirun -np 4 python -m rayhpc.start --one-per-host -- python train.py --address {address}
"""


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our options and the driver's command, which begins with the first argument that is no option of ours."""
    takes_value = {flag for parameter in command().params for flag in parameter.opts if _takes_value(parameter)}
    rest = list(arguments)
    ours: list[str] = []
    while rest and rest[0].startswith("-") and rest[0] not in ("--", "-m", "-"):
        ours.append(_BARE.get(rest[0], rest[0]))
        if rest.pop(0) in takes_value - set(_BARE) and rest:
            ours.append(rest.pop(0))
    return ours, rest[1:] if rest[:1] == ["--"] else rest


def parse(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Options and the driver's command; raises RayhpcError with exit code 2 for what cannot be understood.

    click.exceptions.Exit passes through after --help and --version have printed.
    """
    ours, driver = split(arguments)
    main = command()
    try:
        context = main.make_context("rayhpc.start", list(ours), auto_envvar_prefix="RAYHPC")
        options = chosen(context.params)
    except click.UsageError as error:
        raise _usage(error.format_message()) from error
    if options.join:
        options = _joining(options, driver)
    if driver and options.hold:
        raise _usage(f"--hold keeps a cluster without a driver: {driver[0]}")
    if not (driver or options.hold or options.check != "no"):
        raise _usage("no driver was named")
    if driver[:1] == ["-m"] and not "".join(driver[1:2]):
        raise _usage("-m names no module")
    check(options)
    return options, driver


def _joining(options: Options, driver: Sequence[str]) -> Options:
    """The options of a launch that joins; raises RayhpcError for a driver. What the cluster has, it has already."""
    if driver:
        raise _usage(f"--join brings nodes and runs no driver: {driver[0]}")
    own = dataclasses.replace(options, hold=True, register=False, restart_nodes=0, spares=0)
    return dataclasses.replace(own, dashboard=False, metrics=False, tls=False)


def chosen(values: typing.Mapping[str, Any]) -> Options:
    """The options among a command's values; what is not there keeps its default."""
    names = {field.name for field in dataclasses.fields(Options)}
    return Options(**{name: _plain(value) for name, value in values.items() if name in names})


def check(options: Options) -> None:
    """Raises RayhpcError for option values that cannot work anywhere."""
    for name, text, read in (
        ("--memory", options.memory, units.size),
        ("--object-store-memory", options.object_store_memory, units.size),
        ("--walltime", options.walltime, units.seconds),
    ):
        if text:
            try:
                read(text)
            except ValueError as error:
                raise _usage(f"{name}: {error}") from error
    _check_numbers(options)
    if "/" in options.interface:
        try:
            ipaddress.ip_network(options.interface, strict=False)
        except ValueError as error:
            raise _usage(f"--interface: {error}") from error
    if options.walltime and options.deadline:
        raise _usage("--walltime and --deadline say the same thing: give one")
    ray_args.check(options)


def _check_numbers(options: Options) -> None:
    store = units.size(options.object_store_memory) if options.object_store_memory else OBJECT_STORE_MINIMUM
    if store < OBJECT_STORE_MINIMUM:
        raise _usage(f"--object-store-memory: Ray needs {OBJECT_STORE_MINIMUM >> 20}M at least")
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise _usage(f"--{field.name.replace('_', '-')} {value} is no number of seconds")


def _usage(what: str) -> RayhpcError:
    return RayhpcError(Fault(what, ExitCode.USAGE, next_step="python -m rayhpc.start --help"))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _takes_value(parameter: click.Parameter) -> bool:
    return not (isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count))


def command() -> click.Command:
    """The click command: one option for each field of Options."""
    made = click.Command(
        "rayhpc.start",
        params=parameters(Options),
        help=_HELP,
        options_metavar=_USAGE,
        context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    )
    version = click.version_option(__version__, message="rayhpc %(version)s", allow_from_autoenv=False)
    return version(made)


def parameters(data: type, names: Collection[str] = (), without: Collection[str] = ()) -> list[click.Parameter]:
    """One option for each field of a dataclass of options; of those that are named, or of all but some."""
    hints = typing.get_type_hints(data)
    fields = [field for field in dataclasses.fields(data) if field.name not in without]
    return [_option(field, hints[field.name]) for field in fields if field.name in names or not names]


class _Option(click.Option):
    """An option whose errors name the variable that the value comes from."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The flag, and the variable if that has said it."""
        hint = super().get_error_hint(ctx)
        if ctx is None or ctx.get_parameter_source(self.name or "") is not ParameterSource.ENVIRONMENT:
            return hint
        own = [f"{ctx.auto_envvar_prefix}_{self.name}".upper()]
        return f"{hint}, from {next(name for name in self.envvar or own if os.environ.get(name))}"


def _option(field: dataclasses.Field[Any], hint: Any) -> click.Option:
    details = field.metadata
    flag = "--" + field.name.replace("_", "-")
    negative = "/--no-" + field.name.replace("_", "-") if "off" in details else ""
    short = [details["short"]] if "short" in details else []
    return _Option(
        [*short, flag + negative, field.name],
        envvar=details.get("variables"),
        default=field.default,
        help=details["help"],
        metavar=None if hint is bool else details.get("metavar"),
        multiple=details.get("multiple", False),
        is_flag=hint is bool,
        type=_type(hint, details),
        show_default=_shown(field.default),
        allow_from_autoenv=not (environment.MARKER in os.environ and field.name in _SET_FOR_DRIVERS),
    )


def _shown(default: Any) -> bool:
    return default not in (None, "", (), False, 0, 0.0)


def _type(hint: Any, details: typing.Mapping[str, Any]) -> Any:
    if "choices" in details:
        return click.Choice(details["choices"])
    plain = next((kind for kind in typing.get_args(hint) if kind is not types.NoneType), hint)
    least, most = details.get("minimum"), details.get("maximum")
    ranges = {int: click.IntRange(least, most), float: click.FloatRange(least, most), bool: bool}
    return ranges.get(plain, str)
