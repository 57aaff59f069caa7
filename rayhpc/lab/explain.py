"""`rayhpc lab config`: the resolved configuration, its difference from RLlib's defaults, a key explained."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from rayhpc.lab.algorithms import default_config, names
from rayhpc.lab.check import nearest, paths
from rayhpc.lab.old_names import RENAMED
from rayhpc.lab.own_groups import OWN_GROUPS
from rayhpc.lab.schema import RAY_GROUPS, Key, schema_of
from rayhpc.lab.settings import Settings
from rayhpc.rllib.errors import UsageError
from rayhpc.sweep.plan import text

NOWHERE = object()
SINGLE = {
    "algo": "wants: a name of `rayhpc lab algos`, or module:Class\ndefault: PPO",
    "env": "wants: a name of `rayhpc lab envs`, module:Class, FILE.py, or pettingzoo.MODULE\ndefault: CartPole-v1",
}
GROUPS = (*RAY_GROUPS, *OWN_GROUPS)
WIDEST_DEFAULT = 80
WIDTH = 100


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
    config = default_config(algo)
    schema = schema_of(type(config))
    group, _, name = path.partition(".")
    if path in SINGLE:
        return f"{path}\n{SINGLE[path]}\n"
    if group in schema and not name:
        return "\n".join(each.path for each in schema[group].values() if not each.old) + "\n"
    if group not in schema or name not in schema[group]:
        raise UsageError(f"{path}: there is no such key{nearest(path, paths(schema), schema)}")
    return text_of(schema[group][name], config)


def text_of(key: Key, config: Any) -> str:
    """A key in a few lines."""
    default = _default(key, config)
    known = [f"default: {default}"] if default else []
    old = ["an old name: Ray keeps it only to say what replaced it"] if key.old else []
    meaning = textwrap.fill(key.text or "Ray does not say more.", WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join([key.path, f"wants: {key.wants}", *known, *old, meaning]) + "\n"


def reference() -> str:
    """docs/lab-reference.md: every key of every group, as the installed Ray has them."""
    return "\n".join(_reference()) + "\n"


def _reference() -> Iterator[str]:
    import ray

    of_ppo = default_config("PPO")
    base = type(of_ppo).__mro__[1]
    common, config = schema_of(base), base()
    yield "# Configuration reference"
    yield ""
    yield f"Made from the signatures of Ray {ray.__version__} by `rayhpc lab config reference`. What a key means:"
    yield "`rayhpc lab config explain GROUP.KEY`."
    for group in GROUPS:
        yield from _table(group, list(common[group].values()), config)
    for algo in names():
        own = default_config(algo)
        keys = schema_of(type(own))["training"].items()
        more = [key for name, key in keys if name not in common["training"] or differs(own, config, name)]
        yield from _table(f"training of {algo}", more, own)


def differs(config: Any, base: Any, name: str) -> bool:
    """Whether an algorithm has another default than RLlib in general."""
    return not same(stored(config, name), stored(base, name))


def _table(title: str, keys: Sequence[Key], config: Any) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| key | default | wants |", "|---|---|---|")
    for key in keys:
        if not key.old and key.path not in RENAMED:
            default = _default(key, config)
            default = default if len(default) <= WIDEST_DEFAULT else f"{default[:WIDEST_DEFAULT]}…"
            cells = (f"`{key.name}`", f"`{default}`" if default else "", key.wants)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(key: Key, config: Any) -> str:
    value = getattr(OWN_GROUPS[key.group](), key.name) if key.group in OWN_GROUPS else stored(config, key.name)
    if value is None or isinstance(value, bool):
        return text(value)
    shown = "" if value is NOWHERE else value.__name__ if isinstance(value, type) else repr(value)
    return "an object" if " at 0x" in shown else shown


def stored(config: Any, name: str) -> Any:
    """What a configuration holds under a name, or a property; NOWHERE for keys that it keeps elsewhere."""
    held = vars(config)
    return held.get(name, held.get(f"_{name}", NOWHERE))
