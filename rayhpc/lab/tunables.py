"""The group `tunables`: keys that `rayhpc lab tune` varies, and that `rayhpc lab train` wants one value of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayhpc.lab.check import SEARCHED as GROUP
from rayhpc.lab.old_names import present_name
from rayhpc.rllib.errors import UsageError

# What tells a space, as {type: loguniform, values: [1e-5, 1e-2]}, from a group of keys.
_OF_A_SPACE = {"type", "values"}


def found(tunables: Any) -> dict[str, Any]:
    """Each tunable by its path, as training.lr, old names as they are called now; UsageError for what is no group."""
    if not isinstance(tunables, Mapping):
        raise UsageError(f"{GROUP}={tunables!r}: it is a group, as {GROUP}.training.lr={{type: …, values: […]}}")
    return {present_name(path): space for path, space in _walk(tunables, "")}


def _walk(group: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in group.items():
        if isinstance(value, Mapping) and not _OF_A_SPACE & set(value):
            yield from _walk(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def taken_from(plain: dict[str, Any]) -> None:
    """Leave no tunables in settings that one training uses; UsageError for one that has no value of its own."""
    tunables = plain.pop(GROUP, None)
    if tunables is None:
        return
    without = [path for path in found(tunables) if not _has(plain, path)]
    if without:
        raise UsageError(
            f"{', '.join(without)}: tunable, and without a value: give one, such as {without[0]}=…, or search for it:"
            " rayhpc lab tune"
        )


def _has(settings: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return True
