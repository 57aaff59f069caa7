"""From tunables to the parameters of a sweep; all that is wrong with them is found before Ray starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

from rayhpc.lab.check import SINGLE, check, wants_object
from rayhpc.lab.own_groups import OWN_GROUPS
from rayhpc.lab.schema import Schema
from rayhpc.rllib.errors import UsageError
from rayhpc.sweep.plan import KINDS, Parameter, text, wrong_values

SEED = "debugging.seed"
_EXAMPLE = "{type: loguniform, values: [1e-5, 1e-2]}"
_LISTS = ("choice", "grid")
_INSTEAD = "; random has several meanings: write choice for a list, uniform for two bounds"
# Words that Hydra's grammar takes for text without quotation marks.
_BARE = re.compile(r"[A-Za-z_./][\w./:@-]*")
_OTHER_THAN_TEXT = {"null", "true", "false", "nan", "inf", "auto"}


def parameters(tunables: Mapping[str, Any], schema: Schema) -> tuple[Parameter, ...]:
    """A parameter for each tunable; UsageError with one line for each thing that is wrong."""
    wrong = [problem for path, space in tunables.items() for problem in _wrong_space(path, space, schema)]
    if wrong:
        raise UsageError("\n  ".join(wrong))
    return tuple(Parameter(path, space["type"], _plain(space)) for path, space in tunables.items())


def typical(parameter: Parameter) -> Any:
    """A value from the middle of a space, or the first of its list."""
    low, *others = parameter.values
    if parameter.kind in _LISTS or parameter.kind == "normal":
        return low
    if parameter.kind == "loguniform":
        return sqrt(low * others[0])
    return (low + others[0]) // 2 if parameter.kind == "randint" else (low + others[0]) / 2


def _wrong_space(path: str, space: Any, schema: Schema) -> Iterator[str]:
    name, group = f"tunables.{path}", path.partition(".")[0]
    kind, values = (space.get("type"), space.get("values")) if isinstance(space, Mapping) else (None, None)
    if path == SEED:
        yield f"{name}: the seed is what tune.repeat varies: tune.repeat=3 gives each point three seeds"
    elif group in OWN_GROUPS:
        yield f"{name}: {group} says how a training runs, not what it learns with: it cannot be varied"
    elif not isinstance(values, list) or not values or set(space) != {"type", "values"}:
        yield f"{name}={space!r}: a space is wanted, such as {_EXAMPLE}"
    elif kind not in KINDS:
        yield f"{name}: type {kind} is none of {', '.join(KINDS)}{_INSTEAD if kind == 'random' else ''}"
    elif wrong := wrong_values(kind, values):
        yield f"{name}: values={values}: {wrong}"
    elif path not in SINGLE:
        tried = values if kind in _LISTS else [typical(Parameter(path, kind, tuple(values)))]
        told = dict.fromkeys(problem for value in tried for problem in _refused(path, value, schema))
        yield from (f"tunables.{problem} (of type {kind})" for problem in told)


def _refused(path: str, value: Any, schema: Schema) -> Iterator[str]:
    """What `lab train` would say of this key, or of this value."""
    group, _, rest = path.partition(".")
    name, _, inner = rest.partition(".")
    key = schema.get(group, {}).get(name)
    try:
        objects = key is not None and wants_object(key.hint)
        check({group: {name: {inner: value} if inner else value}}, schema, kinds=not objects)
    except UsageError as problem:
        yield str(problem)


def _plain(space: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values, those that a list offers as they are written behind name=."""
    values: Sequence[Any] = space["values"]
    return tuple(_offered(value) for value in values) if space["type"] in _LISTS else tuple(values)


def _offered(value: Any) -> Any:
    """A number or a truth value as it is, anything else in Hydra's notation."""
    return value if value is None or isinstance(value, bool | int | float) else in_hydra(value)


def in_hydra(value: Any) -> str:
    """A value as Hydra's command line reads it back."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{in_hydra(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(in_hydra(each) for each in value) + "]"
    if not isinstance(value, str) or (_BARE.fullmatch(value) and value.lower() not in _OTHER_THAN_TEXT):
        return text(value)
    # A backslash stands for itself except before a quotation mark.
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + match[2].replace("'", "\\'"), value) + "'"
