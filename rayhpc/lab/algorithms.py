"""Algorithms by name or by class."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rayhpc.lab.objects import load
from rayhpc.rllib.errors import UsageError

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


@contextmanager
def quiet() -> Iterator[None]:
    """Without Gymnasium's warnings, of environments that RLlib tries out when it is imported, and without RLlib's own.

    RLlib warns of the stack that is its default, in a long line for each algorithm.
    """
    from gymnasium import logger

    logging.getLogger("ray.rllib").setLevel(logging.ERROR)

    level = logger.min_level
    logger.min_level = logger.ERROR
    try:
        yield
    finally:
        logger.min_level = level


def names() -> list[str]:
    """Those that the installed Ray has."""
    with quiet():
        from ray.rllib.algorithms.registry import ALGORITHMS

    return sorted(ALGORITHMS)


def default_config(algo: Any) -> AlgorithmConfig:
    """RLlib's configuration of an algorithm, by its name in any case, or module:Class; UsageError if there is none."""
    with quiet():
        from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
        from ray.tune.registry import get_trainable_cls
    name = algo.get("name") or algo.get("_target_") if isinstance(algo, dict) else algo
    if isinstance(name, str) and ":" in name:
        named = load(name)
        config = named.get_default_config() if hasattr(named, "get_default_config") else named()
        if not isinstance(config, AlgorithmConfig):
            raise UsageError(f"algo={name}: it is neither an Algorithm nor an AlgorithmConfig")
        return config
    known = {each.lower(): each for each in names()}
    if str(name).lower() not in known:
        near = difflib.get_close_matches(str(name).lower(), known, 1, 0.3)
        nearest = f"; nearest: {known[near[0]]}" if near else ""
        raise UsageError(f"algo={name}: RLlib has {', '.join(names())}, or give module:Class{nearest}")
    with quiet():
        config = get_trainable_cls(known[str(name).lower()]).get_default_config()
    assert isinstance(config, AlgorithmConfig)
    return config
