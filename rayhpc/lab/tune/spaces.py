"""From tunables to the parameters of a sweep; all that is wrong with them is found before Ray starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

from rayhpc.lab.check import SINGLE, fits, nearest, paths, wants_object
from rayhpc.lab.schema import RAY_GROUPS, Key, Schema
from rayhpc.rllib.errors import UsageError
from rayhpc.sweep.plan import KINDS, Parameter, text, wrong_values

SEED = "debugging.seed"
_EXAMPLE = "{type: loguniform, values: [1e-5, 1e-2]}"
_LISTS = ("choice", "grid")
_INSTEAD = {"random": "; random has several meanings: write choice for a list, uniform for two bounds"}
# Words that Hydra's grammar takes for text without quotation marks.
_BARE = re.compile(r"[A-Za-z_./][\w./:@-]*")
_OTHER_THAN_TEXT = {"null", "true", "false", "nan", "inf", "auto"}


def parameters(tunables: Mapping[str, Any], schema: Schema) -> tuple[Parameter, ...]:
    """A parameter for each tunable; UsageError with one line for each thing that is wrong."""
    wrong = [problem for path, space in tunables.items() for problem in _problems(path, space, schema)]
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


def _problems(path: str, space: Any, schema: Schema) -> Iterator[str]:
    name = f"tunables.{path}"
    if unknown := _unknown(path, schema):
        yield f"{name}: {unknown}"
    elif not isinstance(space, Mapping) or set(space) != {"type", "values"}:
        yield f"{name}={space!r}: a space is wanted, such as {_EXAMPLE}"
    elif space["type"] not in KINDS:
        near = difflib.get_close_matches(str(space["type"]), KINDS, 1)
        told = _INSTEAD.get(str(space["type"]), f"; nearest: {near[0]}" if near else "")
        yield f"{name}: type {space['type']} is none of {', '.join(KINDS)}{told}"
    elif not isinstance(space["values"], list) or not space["values"]:
        yield f"{name}: values={space['values']!r}: a list is wanted, such as {_EXAMPLE}"
    elif wrong := wrong_values(space["type"], space["values"]):
        yield f"{name}: values={space['values']}: {wrong}"
    else:
        yield from _wrong_kinds(name, space, _key(path, schema))


def _unknown(path: str, schema: Schema) -> str:
    """Why there is no such key to vary; empty if there is one."""
    group, _, rest = path.partition(".")
    key = _key(path, schema)
    if path in SINGLE:
        return ""
    if path == SEED:
        return "the seed is what tune.repeat varies: tune.repeat=3 gives each point three seeds"
    if group in schema and group not in RAY_GROUPS:
        return f"{group} says how a training runs, not what it learns with: it cannot be varied"
    if key is None or (rest != key.name and not fits({}, key.hint)):
        known = [each for each in paths(schema) if each.partition(".")[0] in RAY_GROUPS]
        return f"there is no such key{nearest(path, known, schema)}"
    return ""


def _key(path: str, schema: Schema) -> Key | None:
    """The key of a group to which a path leads, or in whose mapping it ends."""
    group, _, rest = path.partition(".")
    return schema.get(group, {}).get(rest.partition(".")[0])


def _wrong_kinds(name: str, space: Mapping[str, Any], key: Key | None) -> Iterator[str]:
    """The values that RLlib would not take under this key."""
    if key is None or name != f"tunables.{key.path}" or wants_object(key):
        return
    kind, values = space["type"], space["values"]
    samples = values if kind in (*_LISTS, "randint") else [0.5]
    hint = ", which has a point: take randint, or choice" if kind not in (*_LISTS, "randint") else ""
    for value in samples:
        if not fits(value, key.hint):
            what = f"type {kind} gives {value!r}{hint}" if hint else f"values have {value!r}"
            yield f"{name}: {what}; {key.path} wants {key.wants}"
            return


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
