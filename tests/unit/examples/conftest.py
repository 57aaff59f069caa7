"""Signal handlers are put back after each test."""

from tests.unit.rllib.conftest import signals

__all__ = ["signals"]
