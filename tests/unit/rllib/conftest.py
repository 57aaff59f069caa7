"""Signal handlers are put back after each test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rayhpc.rllib.signals import WISHES, Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (*WISHES, signal.SIGALRM)}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)
