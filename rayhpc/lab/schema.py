"""Which keys there are: the parameters of AlgorithmConfig's group methods in the installed Ray."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge

from rayhpc.lab.own_groups import OWN_GROUPS

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

RAY_GROUPS = (
    "environment", "env_runners", "learners", "training", "evaluation", "multi_agent", "rl_module", "offline_data",
    "reporting", "checkpointing", "debugging", "fault_tolerance", "callbacks", "python_environment", "resources",
    "framework", "api_stack", "experimental",
)  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One key of a group. hint: the type that it wants; old: Ray keeps the name only to say that it has gone."""

    group: str
    name: str
    hint: Any
    text: str = ""
    old: bool = False

    @property
    def path(self) -> str:
        """As it is written on the command line."""
        return f"{self.group}.{self.name}"

    @property
    def wants(self) -> str:
        """What is to be written."""
        return in_words(self.hint)


Schema = Mapping[str, Mapping[str, Key]]
_WORDS = {
    inspect.Parameter.empty: "anything", Any: "anything", types.NoneType: "null", Callable: "module:function",
    type: "module:Class", dict: "mapping", Mapping: "mapping",
}  # fmt: skip


def in_words(hint: Any) -> str:
    """A type as it is written in YAML, such as `float or [int, …] or null`."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in _WORDS:
        return _WORDS[kind]
    if kind is typing.Annotated:
        return f"{in_words(inner[0])} {f'>= {inner[1].ge}' if isinstance(inner[1], Ge) else f'> {inner[1].gt}'}"
    parts = list(dict.fromkeys(inner if kind is typing.Literal else map(in_words, inner)))
    if kind in (typing.Union, types.UnionType, typing.Literal):
        return "anything" if "anything" in parts else " or ".join(parts)
    if kind in (list, Collection) and parts:
        return f"[{parts[0]}, …]"
    if kind is tuple:
        return f"[{', '.join(map(in_words, inner))}]"
    return str(getattr(hint, "__forward_arg__", getattr(hint, "__name__", hint)))


def schema_of(config: type[AlgorithmConfig]) -> Schema:
    """Every group with its keys, for this algorithm."""
    of_ray = {group: dict(_keys(config, group)) for group in RAY_GROUPS}
    return {**of_ray, **{name: dict(_own_keys(name, group)) for name, group in OWN_GROUPS.items()}}


def _keys(config: type[AlgorithmConfig], group: str) -> Iterator[tuple[str, Key]]:
    """Those of the method of the class, then those to which its `**kwargs` go: its base classes'."""
    from ray.rllib.algorithms.algorithm_config import DEPRECATED_VALUE  # where Ray keeps it has changed

    seen = set()
    for method in (vars(base)[group] for base in config.__mro__ if group in vars(base)):
        texts = parameter_texts(inspect.getdoc(method) or "")
        parameters = list(inspect.signature(method).parameters.values())[1:]
        for each in parameters:
            if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) and each.name not in seen:
                seen.add(each.name)
                old = isinstance(each.default, int | str) and each.default == DEPRECATED_VALUE
                yield each.name, Key(group, each.name, each.annotation, texts.get(each.name, ""), old)
        if not any(each.kind == each.VAR_KEYWORD for each in parameters):
            return


def _own_keys(name: str, group: type) -> Iterator[tuple[str, Key]]:
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        yield each.name, Key(name, each.name, hints[each.name], each.metadata["help"])


def parameter_texts(doc: str) -> dict[str, str]:
    """What the "Args:" of a docstring says of each parameter, in one line."""
    _, _, arguments = doc.partition("Args:\n")
    arguments = re.split(r"\n(?=\S)", arguments)[0]
    found = re.findall(r"^ {4}(\w+)(?: \(.*?\))?:\s*(.*?)(?=^ {4}\w+(?: \(.*?\))?:|\Z)", arguments, re.M | re.S)
    return {name: " ".join(text.split()) for name, text in found}
