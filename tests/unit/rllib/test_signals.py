"""Signals as one wish to stop."""

from __future__ import annotations

import os
import signal

import pytest

from rayhpc.rllib.signals import Signals


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGUSR1, "signal"), (signal.SIGTERM, "signal"), (signal.SIGINT, "interrupt")]
)
def test_a_signal_interrupts_the_set_up_once(signals: Signals, number: signal.Signals, reason: str) -> None:
    signals.install()
    assert signals.reason is None
    signals.check()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert signals.reason == reason
    os.kill(os.getpid(), signal.SIGINT)
    assert (signals.first, signals.reason) == (number, reason)
    with pytest.raises(KeyboardInterrupt):
        signals.check()


def test_a_signal_waits_for_the_iteration(signals: Signals) -> None:
    signals.install()
    signals.defer()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.first == signal.SIGUSR1
