"""Every test starts as a process that nobody launched: no scheduler's, no launcher's and no option's variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from .making import HOSTILE, LAUNCHER_PREFIXES

# A shared machine stalls for longer than hypothesis' deadline of 200 ms.
settings.register_profile("rayhpc", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("rayhpc")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(LAUNCHER_PREFIXES)]:
        monkeypatch.delenv(name)


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def short(tmp_path: Path) -> Iterator[str]:
    """A real directory with a short name, whatever the length of TMPDIR: the one of its file descriptor."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield f"/proc/self/fd/{descriptor}"
    os.close(descriptor)
