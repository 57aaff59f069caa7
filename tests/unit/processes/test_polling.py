"""Waiting for any number of descriptors, also beyond those that select() knows."""

from __future__ import annotations

import os
import resource
import time

import pytest

from rayhpc.processes import polling


def test_a_descriptor_beyond_those_of_select() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2100:
        pytest.skip("this process may not open so many files")
    reading, writing = os.pipe()
    high = os.dup2(reading, 2000)
    try:
        assert polling.readable([high], 0.0) == []
        os.write(writing, b"x")
        assert polling.readable([high], 10.0) == [high]
        assert polling.writable([writing], 10.0) == [writing]
    finally:
        for number in (high, reading, writing):
            os.close(number)


def test_an_end_is_noticed_and_the_time_is_kept() -> None:
    reading, writing = os.pipe()
    began = time.monotonic()
    assert polling.readable([reading], 0.05) == []
    assert time.monotonic() - began >= 0.05
    os.close(writing)
    assert polling.readable([reading], 10.0) == [reading]
    os.close(reading)
