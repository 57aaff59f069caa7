"""Waiting for descriptors: as select.select, which knows none beyond 1,023."""

from __future__ import annotations

import math
import select
from collections.abc import Collection
from typing import Protocol, TypeVar


class _HasFileno(Protocol):
    """What a selector takes."""

    def fileno(self) -> int:
        """Its descriptor."""


Source = TypeVar("Source", bound=_HasFileno | int)


def readable(sources: Collection[Source], seconds: float) -> list[Source]:
    """Those from which something can be read, or that have ended; waits so long for the first."""
    return _ready(sources, select.POLLIN, seconds)


def writable(sources: Collection[Source], seconds: float) -> list[Source]:
    """Those to which something can be written, or whose other end has gone; waits so long for the first."""
    return _ready(sources, select.POLLOUT, seconds)


def _ready(sources: Collection[Source], event: int, seconds: float) -> list[Source]:
    numbers = {source if isinstance(source, int) else source.fileno(): source for source in sources}
    poll = select.poll()
    for number in numbers:
        poll.register(number, event)
    return [numbers[number] for number, _ in poll.poll(math.ceil(1000 * max(0.0, seconds)))]
