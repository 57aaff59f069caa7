"""A stand-in for Intel's library of devices: a host of two GPUs, as far as Ray asks."""

from __future__ import annotations


class SyclContext:
    device_count = 2

    def __init__(self, filter_string: str) -> None:
        assert filter_string == "level_zero:gpu"


class SyclDevice:
    name = "Intel(R) Data Center GPU Max 1550"

    def __init__(self, filter_string: str) -> None:
        assert filter_string.startswith("level_zero:gpu:")
