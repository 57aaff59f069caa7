"""What becomes of a run whose Prometheus cannot be asked at the end: nothing but a warning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayhpc.bootstrap.metrics import Metrics
from rayhpc.errors import configuration
from rayhpc.metrics import figures


@pytest.mark.parametrize(
    "error", [configuration("too many samples", next_step="ask for fewer"), TimeoutError("timed out"), ValueError("{")]
)
def test_no_answer_ends_no_run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    said: list[str] = []

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(figures, "of_run", fail)
    context = SimpleNamespace(console=SimpleNamespace(line=said.append))
    made = Metrics(cast(Any, context), "s3cret")
    assert made._figures(cast(Any, SimpleNamespace(nodes=()))) == {}
    assert said[0].startswith(f"WARNING: no figures of the metrics: {error}")
