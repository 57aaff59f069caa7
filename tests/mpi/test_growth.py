"""The benchmark of agreement and supervision follows the product: real ranks, a stub in the place of Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import growth

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("by", ["mpi", "tcp"])
def test_two_ranks_are_measured(by: str, tmp_path: Path) -> None:
    words = ["--ranks", "2", "--seconds", "1", "--by", by, "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", growth.__name__, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*.json")
    assert '"ranks": 2' in file.read_text()
