"""Wrong groups, keys and kinds are found before Ray starts; every one of them is named, with what it wants."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from typing import Any, ForwardRef, get_args, get_origin

from rayhpc.lab.schema import Schema
from rayhpc.rllib.errors import UsageError

SINGLE = ("algo", "env")
# What is no group of one training: its keys are looked at where a search reads them.
SEARCHED = "tunables"


def check(settings: Mapping[str, Any], schema: Schema, *, kinds: bool = True) -> None:
    """Raise UsageError with one line for each thing that is wrong."""
    wrong = [*_wrong_names(settings, schema), *(_wrong_kinds(settings, schema) if kinds else ())]
    if wrong:
        raise UsageError("\n  ".join(wrong))


def _wrong_names(settings: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    for group, values in settings.items():
        if group in SINGLE:
            continue
        if group not in schema:
            yield f"{group}: there is no such group{nearest(group, [*schema, *SINGLE, SEARCHED], schema)}"
        elif not isinstance(values, Mapping):
            first = next(iter(schema[group]))
            yield f"{group}={values!r}: it is a group: give one of its keys, such as {group}.{first}=…"
        else:
            for path in (f"{group}.{name}" for name in values if name not in schema[group]):
                yield f"{path}: group {group} has no such key{nearest(path, paths(schema), schema)}"


def paths(schema: Schema) -> list[str]:
    """Every key that can be set, as group.key."""
    return [each.path for keys in schema.values() for each in keys.values() if not each.old]


def nearest(wrong: str, known: Iterable[str], schema: Schema) -> str:
    """The name that was meant, most likely: in the same group first, then the same name in another group."""
    group, _, name = wrong.partition(".")
    elsewhere = [path for path in known if path.endswith(f".{name or group}")]
    own = [path for path in known if path.startswith(f"{group}.")] if name else list(known)
    near = elsewhere or difflib.get_close_matches(wrong, own, 1, 0.6) or difflib.get_close_matches(wrong, known, 1, 0.6)
    if not near:
        return f"; {group} has {', '.join(sorted(schema[group]))}" if group in schema else ""
    found, _, key = near[0].partition(".")
    wants = f", which wants {schema[found][key].wants}" if key else ""
    return f"; nearest: {near[0]}{wants}"


def _wrong_kinds(settings: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    for group, values in settings.items():
        if group in schema and isinstance(values, Mapping):
            for name, value in values.items():
                key = schema[group].get(name)
                if key is not None and not key.old and not fits(value, key.hint):
                    yield f"{key.path}={value!r}: wants {key.wants}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that an annotation says; a number without a point is a number with one too."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if hint is Parameter.empty:
        return True
    try:
        wanted = TypeAdapter(without_forward(hint), config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return True
    try:
        wanted.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def as_wanted(value: Any, hint: Any) -> Any:
    """A list as a tuple where only a tuple is wanted, which YAML does not have."""
    origins = {get_origin(each) or each for each in (hint, *get_args(hint))}
    return tuple(value) if isinstance(value, list) and tuple in origins and list not in origins else value


def without_forward(hint: Any) -> Any:
    """The annotation with Any in the place of what Ray only names."""
    if isinstance(hint, ForwardRef | str):
        return Any
    origin, inner = get_origin(hint), get_args(hint)
    if origin is typing.Union:
        return typing.Union[tuple(without_forward(each) for each in inner)]  # noqa: UP007
    if origin is type:
        return type if not inner or isinstance(inner[0], ForwardRef) else hint
    if origin in (list, dict) and inner:
        return origin[tuple(without_forward(each) for each in inner)]
    return hint


def wants_object(hint: Any) -> bool:
    """Whether a class or a function is wanted, or a collection of them: configurations name each as module:name."""
    origin = get_origin(hint) or hint
    return origin in (type, Callable) or any(wants_object(each) for each in get_args(hint))
