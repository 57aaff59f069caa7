"""`rayhpc lab config`: the resolved configuration, its difference from RLlib's defaults, a key explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from rayhpc.lab.algorithms import default_config, names
from rayhpc.lab.check import nearest, paths
from rayhpc.lab.own_groups import OWN_GROUPS
from rayhpc.lab.schema import RAY_GROUPS, Key, schema_of
from rayhpc.lab.settings import Settings
from rayhpc.rllib.errors import UsageError


def as_yaml(settings: Settings) -> str:
    """What was given, with today's names."""
    return yaml.safe_dump(settings.plain, sort_keys=False)


def difference(settings: Settings) -> str:
    """RLlib's defaults and what stands in their place; the names are those of AlgorithmConfig's attributes."""
    before, after = vars(default_config(settings.plain.get("algo"))), vars(settings.config)
    changed = [name for name, value in after.items() if name not in before or not same(before[name], value)]
    return "".join(f"{name}: {before.get(name)!r} -> {after[name]!r}\n" for name in changed if name[:9] != "_is_froze")


def same(one: Any, other: Any) -> bool:
    """Equality that an array or an object of a library does not break."""
    try:
        return bool(one == other)
    except (TypeError, ValueError):
        return one is other


def explained(path: str, algo: Any) -> str:
    """What a key or a group is: type, default, meaning; UsageError with the nearest one if there is none."""
    schema, config = schema_of(type(default_config(algo))), default_config(algo)
    group, _, name = path.partition(".")
    if group in schema and not name:
        return "\n".join(each.path for each in schema[group].values() if not each.old) + "\n"
    if group not in schema or name not in schema[group]:
        raise UsageError(f"{path}: there is no such key{nearest(path, paths(schema), schema)}")
    return text_of(schema[group][name], config)


def text_of(key: Key, config: Any) -> str:
    """A key in a few lines."""
    default = getattr(config, key.name, None) if key.group in RAY_GROUPS else None
    known = [f"default: {default!r}"] if hasattr(config, key.name) and key.group in RAY_GROUPS else []
    old = ["an old name: Ray keeps it only to say what replaced it"] if key.old else []
    return "\n".join([key.path, f"wants: {key.wants}", *known, *old, key.text or "Ray does not say more."]) + "\n"


def reference(algos: Sequence[str] = ()) -> str:
    """docs/lab-reference.md: every key of every group, as the installed Ray has them."""
    return "\n".join(_reference(algos or names())) + "\n"


def _reference(algos: Sequence[str]) -> Iterator[str]:
    import ray

    base = schema_of(type(default_config("PPO")).__mro__[1])
    yield "# Configuration reference"
    yield ""
    yield f"Made from the signatures of Ray {ray.__version__} by `rayhpc lab config reference`. What a key means:"
    yield "`rayhpc lab config explain GROUP.KEY`."
    for group in (*RAY_GROUPS, *OWN_GROUPS):
        yield from _table(group, list(base[group].values()))
    for algo in algos:
        own = schema_of(type(default_config(algo)))["training"]
        yield from _table(f"training of {algo}", [key for name, key in own.items() if name not in base["training"]])


def _table(title: str, keys: Sequence[Key]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| key | wants |", "|---|---|")
    for key in keys:
        if not key.old:
            wants = key.wants.replace("|", "\\|")
            yield f"| `{key.name}` | {wants} |"
