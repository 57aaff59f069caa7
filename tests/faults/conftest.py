"""Every test here is a fault; `quick` marks the third that runs with the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.odd import short_directory


@pytest.fixture
def short() -> Iterator[Path]:
    """An empty directory whose name is short enough for --temp-dir."""
    with short_directory() as directory:
        yield directory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fault)
