"""Ids of what is made once, such as runs and allocations: how they are made, and how a user's input selects one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def new_id(now: float) -> str:
    """Sorts by time and is unique: 20261121-094408-1a2b3c4d."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(4)}"


def select(known: Sequence[T], *criteria: Callable[[T], bool]) -> list[T]:
    """The entries for which the first criterion holds that holds for any: an exact id before the beginning of one."""
    found = ([entry for entry in known if criterion(entry)] for criterion in criteria)
    return next((entries for entries in found if entries), [])
