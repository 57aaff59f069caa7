"""What the shell's Tab key offers for the overrides: keys of the algorithm that is named, and values of some."""

from __future__ import annotations

from rayhpc.lab.algorithms import default_config, names
from rayhpc.lab.check import paths
from rayhpc.lab.compose import EXPERIMENT, experiments
from rayhpc.lab.environments import ids
from rayhpc.lab.schema import schema_of
from rayhpc.rllib.errors import UsageError


def candidates(before: tuple[str, ...], word: str) -> list[str]:
    """The words that begin so; after a bare `=`, as bash divides words, values alone."""
    if before[-1:] == ("=",):
        return [value for value in values_of(before[-2]) if value.lower().startswith(word.lower())]
    if not word and before and "=" not in before[-1]:  # click gives nothing for a bare `=`
        return values_of(before[-1])
    if "=" in word:
        key, _, begun = word.partition("=")
        return [f"{key}={value}" for value in values_of(key) if value.lower().startswith(begun.lower())]
    return [f"{key}=" for key in keys_for(before) if key.startswith(word)]


def keys_for(before: tuple[str, ...]) -> list[str]:
    """Every key of the algorithm that the line names, PPO's where it names none."""
    named = [word.removeprefix("algo=") for word in " ".join(before).replace(" = ", "=").split() if word[:5] == "algo="]
    try:
        config = default_config(named[-1] if named else "PPO")
    except UsageError:
        config = default_config("PPO")
    return ["algo", "env", EXPERIMENT, *paths(schema_of(type(config)))]


def values_of(key: str) -> list[str]:
    """The values of a key that has a list of them."""
    lists = {"algo": names, "env": ids, EXPERIMENT: experiments}
    return lists[key]() if key in lists else []
