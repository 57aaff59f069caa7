"""evaluation.csv: what an evaluation found, and how sure that is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rayhpc.rllib.evaluations import Evaluation, evaluation_in, margin, read_evaluations, text_of
from rayhpc.rllib.metrics import Row

ROW = Row(3, 1200, 60, 4.5, 21.5, 9.0, 40.0, 300.0)


def result(returns: Any) -> dict[str, Any]:
    return {"evaluation": {"env_runners": {"episode_returns": returns}}}


def test_the_interval_is_students() -> None:
    # t = 4.303 for two degrees of freedom, a standard error of 10 / sqrt(3).
    assert margin([10, 20, 30]) == pytest.approx(4.3027 * 10 / math.sqrt(3), rel=1e-4)
    assert math.isnan(margin([10]))


def test_an_evaluation_in_a_result() -> None:
    found = evaluation_in(result([10.0, 20.0, 30.0]), ROW)
    assert found is not None
    assert (found.iteration, found.timesteps, found.episodes, found.return_mean) == (3, 1200, 3, 20)


@pytest.mark.parametrize("nothing", [{}, result(math.nan), result([])])
def test_an_iteration_without_an_evaluation(nothing: dict[str, Any]) -> None:
    assert evaluation_in(nothing, ROW) is None


def test_the_file_is_read_up_to_the_checkpoint(tmp_path: Path) -> None:
    written = [Evaluation(1, 400, 3, 20.0, 2.5), Evaluation(2, 800, 3, 21.0, 3.5)]
    (tmp_path / "evaluation.csv").write_bytes(text_of(written))
    assert read_evaluations(tmp_path / "evaluation.csv", 1) == written[:1]
    single = text_of([Evaluation(1, 400, 1, 20.0, math.nan)])
    (tmp_path / "evaluation.csv").write_bytes(single)
    assert text_of(read_evaluations(tmp_path / "evaluation.csv", 1)) == single
