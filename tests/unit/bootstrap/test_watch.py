"""Signals and mail, noticed in one place. Signals are sent to a process of the test's own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayhpc.bootstrap.watch import Watch
from rayhpc.messages import SignalArrived
from rayhpc.processes import signals
from rayhpc.processes.signals import NOTED, Signals
from rayhpc.ranks.comm import SoloComm

INT, TERM, USR1 = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGUSR1)


@pytest.fixture
def noted() -> Iterator[Signals]:
    """Handlers of this process, put back afterwards."""
    before = {signum: signal.getsignal(signum) for signum in NOTED}
    wakeup = signal.set_wakeup_fd(-1)
    made = Signals()
    yield made
    for signum, handler in before.items():
        signal.signal(signum, handler)
    os.close(signal.set_wakeup_fd(wakeup))
    os.close(made.fileno())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The handlers' clock; it stands still."""
    made = SimpleNamespace(now=1000.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr(signals, "time", made)
    return made


def test_no_signal_is_no_news(noted: Signals) -> None:
    assert noted.take() == []


def test_signals_are_counted_each_for_itself(noted: Signals, clock: SimpleNamespace) -> None:
    for signum in (USR1, TERM, USR1):
        os.kill(os.getpid(), signum)
        clock.now += 5.0
    assert noted.take() == [(USR1, 1), (TERM, 1), (USR1, 2)]
    os.kill(os.getpid(), TERM)
    assert noted.take() == [(TERM, 2)]
    assert noted.take() == []


def test_a_signal_that_comes_twice_at_once_counts_once(noted: Signals, clock: SimpleNamespace) -> None:
    os.kill(os.getpid(), TERM)
    clock.now += 0.1
    os.kill(os.getpid(), TERM)
    assert noted.take() == [(TERM, 1)]


def test_pressing_ctrl_c_again_and_again_hastens_the_end(noted: Signals, clock: SimpleNamespace) -> None:
    for _ in range(10):
        os.kill(os.getpid(), INT)
        clock.now += 0.5
    assert len(noted.take()) > 1


def test_a_signal_wakes_who_waits(noted: Signals) -> None:
    watch = Watch(SoloComm(), noted, every=30.0)
    os.kill(os.getpid(), USR1)
    began = time.monotonic()
    assert watch.wait() == [(0, SignalArrived(0, USR1, 1))]
    assert time.monotonic() - began < 10.0


def test_mail_comes_in_order_and_without_waiting(noted: Signals) -> None:
    comm = SoloComm()
    watch = Watch(comm, noted, every=30.0)
    comm.send(0, "first")
    comm.send(0, "second")
    began = time.monotonic()
    assert watch.wait() == [(0, "first"), (0, "second")]
    assert time.monotonic() - began < 10.0


def test_without_news_waiting_ends_after_its_time(noted: Signals) -> None:
    assert Watch(SoloComm(), noted, every=0.01).wait() == []


class FakeChild:
    """A child whose keeper has something to say."""

    def __init__(self, done: bool) -> None:
        self.done = done
        self.reading, self.writing = os.pipe()
        if done:
            os.close(self.writing)

    def fileno(self) -> int:
        return self.reading

    def poll(self) -> bool:
        return self.done

    def close(self) -> None:
        os.close(self.reading)
        if not self.done:
            os.close(self.writing)


@pytest.fixture
def children() -> Iterator[tuple[FakeChild, FakeChild]]:
    made = FakeChild(True), FakeChild(False)
    yield made
    for child in made:
        child.close()


def test_the_end_of_a_child_is_told_once(noted: Signals, children: tuple[FakeChild, FakeChild]) -> None:
    watch = Watch(SoloComm(), noted, every=0.01)
    for child in children:
        watch.add(cast(Any, child), lambda child: child)
    assert watch.wait() == [(0, children[0])]
    assert watch.wait() == []


def test_a_forgotten_child_is_not_told(noted: Signals, children: tuple[FakeChild, FakeChild]) -> None:
    watch = Watch(SoloComm(), noted, every=0.01)
    watch.add(cast(Any, children[0]), lambda child: child)
    watch.forget(cast(Any, children[0]))
    watch.forget(cast(Any, children[1]))
    assert watch.wait() == []


def test_who_only_waits_looks_seldom(noted: Signals) -> None:
    made = Watch(cast(Any, SimpleNamespace(size=3)), noted)
    paces = [made.every]
    for change in (made.doze, made.slow_down):
        change()
        paces.append(made.every)
    assert paces == [0.01, 0.5, 0.1]
