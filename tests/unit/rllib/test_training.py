"""The training loop with a stand-in algorithm, and what the user sees of it."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import rayhpc.rllib.loop as library
from rayhpc.rllib.command_line import place_of, stop_conditions
from rayhpc.rllib.deadline import DEADLINE_MARGIN_S, end_of_job
from rayhpc.rllib.driver import prepare
from rayhpc.rllib.learning_curve import learning_curve
from rayhpc.rllib.loop import train
from rayhpc.rllib.metrics import read_metrics
from rayhpc.rllib.progress import opening, table_line
from rayhpc.rllib.signals import BEFORE_DEADLINE_S, Signals
from rayhpc.rllib.training import Plan, Training

from .making import iterations_in, options, row, save_to

# Half a second for the iteration.
PATIENCE_S = library.EXIT_S + library.LEAST_CHECKPOINT_S + 0.5


class Counting:
    """An algorithm whose returns grow by ten each iteration; `at` has something happen in the middle of one."""

    def __init__(self, at: dict[int, Callable[[], object]] | None = None, *, done: int = 0, lost: int = 0) -> None:
        self.iteration = done
        self.at = at or {}
        self.lost = lost
        self.save_s: dict[int, float] = {}

    def train(self) -> dict[str, dict[str, object]]:
        if self.lost:
            self.lost -= 1
            return {"env_runners": {"num_env_steps_sampled": math.nan}}
        self.iteration += 1
        self.at.get(self.iteration, lambda: None)()
        returns = [10.0 * self.iteration] * 100
        return {"env_runners": {"num_env_steps_sampled": 4000, "episode_returns": returns}}

    def save_to_path(self, path: str) -> None:
        # The iteration that is abandoned has been counted already.
        time.sleep(self.save_s.get(self.iteration - 1, 0.0))
        save_to(path)


def no_config(_env_runners: int, _seed: int) -> NoReturn:
    raise AssertionError("the algorithm is there already")


def training(output: Path, signals: Signals, *arguments: str) -> Training:
    chosen = options("--output", str(output), *arguments)
    plan = Plan("PPO", chosen.env, no_config, stop_conditions(chosen, 450.0), keep=chosen.keep)
    return prepare(plan, place_of(chosen), signals)


def test_training_stops_at_the_return_with_a_checkpoint(tmp_path: Path, signals: Signals) -> None:
    run = training(tmp_path, signals)
    assert train(run, Counting()) == "return"
    assert [one.iteration for one in read_metrics(tmp_path / "metrics.csv")] == list(range(1, 46))
    assert iterations_in(tmp_path) == [30, 40, 45]
    assert (run.rows[-1].timesteps, run.rows[-1].episodes, run.rows[-1].return_mean) == (180_000, 4500, 450)


def test_a_signal_ends_training_after_the_iteration(
    tmp_path: Path, signals: Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals, "--keep", "1")
    algorithm = Counting({13: lambda: os.kill(os.getpid(), signal.SIGUSR1)})
    assert train(run, algorithm) == "signal"
    assert iterations_in(tmp_path) == [13]
    assert "SIGUSR1" in capfd.readouterr().err


def busy(seconds: float, number: signal.Signals) -> Callable[[], None]:
    """A long iteration in which a signal comes."""

    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(seconds)

    return work


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "signal")])
def test_an_iteration_that_outlasts_the_patience_is_abandoned(
    tmp_path: Path, signals: Signals, capfd: pytest.CaptureFixture[str], number: signal.Signals, reason: str
) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals)
    signals.limit_to(PATIENCE_S, end_of_job)
    began = time.monotonic()
    assert train(run, Counting({13: busy(60, number)})) == reason
    assert 0.1 < time.monotonic() - began < 10
    assert iterations_in(tmp_path) == [10, 12]
    assert run.abandoned
    assert f"--stop-timeout {PATIENCE_S:g}" in capfd.readouterr().err


def test_the_end_of_the_job_is_a_limit_too(tmp_path: Path, signals: Signals, capfd: pytest.CaptureFixture[str]) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals)
    end = time.time() + BEFORE_DEADLINE_S + PATIENCE_S
    signals.limit_to(8.0, lambda: end)
    assert train(run, Counting({3: busy(60, signal.SIGUSR1)})) == "signal"
    assert iterations_in(tmp_path) == [2]
    assert "would outlast the end of the job" in capfd.readouterr().err


def test_an_iteration_within_the_patience_is_finished(tmp_path: Path, signals: Signals) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals)
    signals.limit_to(library.EXIT_S + 30, end_of_job)
    assert train(run, Counting({3: busy(0.3, signal.SIGINT)})) == "interrupt"
    assert iterations_in(tmp_path) == [3]
    assert not run.abandoned


def test_a_checkpoint_that_takes_too_long_is_left(
    tmp_path: Path, signals: Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals)
    signals.limit_to(PATIENCE_S, end_of_job)
    algorithm = Counting({13: busy(60, signal.SIGINT)})
    algorithm.save_s = {12: 60.0}
    assert train(run, algorithm) == "interrupt"
    assert iterations_in(tmp_path) == [10]
    assert "no time for a checkpoint of iteration 12" in capfd.readouterr().err


def test_reaching_the_goal_outranks_a_signal(tmp_path: Path, signals: Signals) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals, "--stop-iterations", "5")
    assert train(run, Counting({5: lambda: os.kill(os.getpid(), signal.SIGTERM)})) == "iterations"


def test_a_resumed_run_has_no_gap_and_no_duplicate(tmp_path: Path, signals: Signals) -> None:
    first = training(tmp_path, signals)
    with pytest.raises(ZeroDivisionError):
        train(first, Counting({27: lambda: 1 / 0}))
    first.close()
    assert iterations_in(tmp_path) == [10, 20]
    assert len(read_metrics(tmp_path / "metrics.csv")) == 26
    run = training(tmp_path, signals, "--resume")
    assert len(run.returns) == 100
    assert train(run, Counting(done=20)) == "return"
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [one.iteration for one in rows] == list(range(1, 46))
    assert [one.timesteps for one in rows] == [4000 * number for number in range(1, 46)]
    assert all(before.seconds <= after.seconds for before, after in itertools.pairwise(rows))


def test_nothing_new_makes_no_checkpoint(tmp_path: Path, signals: Signals) -> None:
    signals.first = signal.SIGUSR1
    run = training(tmp_path, signals)
    assert train(run, Counting()) == "signal"
    assert (iterations_in(tmp_path), run.checkpoint) == ([], None)


def test_an_iteration_without_samples_does_not_count(tmp_path: Path, signals: Signals) -> None:
    run = training(tmp_path, signals, "--stop-iterations", "5")
    assert train(run, Counting(lost=3)) == "iterations"
    assert [one.iteration for one in run.rows] == [1, 2, 3, 4, 5]


def test_no_samples_for_long_is_a_failure(tmp_path: Path, signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "NO_SAMPLES_TIMEOUT_S", -1.0)
    with pytest.raises(RuntimeError, match="no env runner"):
        train(training(tmp_path, signals), Counting(lost=3))


@pytest.mark.parametrize(("first", "later", "reason"), [(60, -1, "deadline"), (20, 3600, "return")])
def test_the_deadline_ends_training_where_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: Signals, first: float, later: float, reason: str
) -> None:
    file = tmp_path / "deadline"
    monkeypatch.setenv("RAYHPC_DEADLINE", "1")
    monkeypatch.setenv("RAYHPC_DEADLINE_FILE", str(file))

    def move_end(seconds: float) -> None:
        file.write_text(f"{time.time() + DEADLINE_MARGIN_S + seconds:.0f}\n")

    move_end(first)
    assert train(training(tmp_path, signals), Counting({7: lambda: move_end(later)})) == reason
    assert iterations_in(tmp_path)[-1] == (7 if reason == "deadline" else 45)


def test_the_learning_curve_is_a_picture(tmp_path: Path, signals: Signals) -> None:
    pytest.importorskip("matplotlib")
    run = training(tmp_path, signals)
    run.rows = [row(1, mean=math.nan), row(2), row(3, mean=200)]
    assert learning_curve(run).startswith(b"\x89PNG")


def test_a_table_line_fits_under_its_head(tmp_path: Path, signals: Signals) -> None:
    run = training(tmp_path, signals)
    run.nodes = [{"env_runners": 0}, {"env_runners": 3}]
    lines = opening(run).splitlines()
    assert "env runners: 3 on 1 of 2 Ray nodes" in lines[0]
    assert len(table_line(row(12), math.nan)) == len(lines[-1])
    assert table_line(row(12), math.nan).split() == ["12", "48", "000", "100.0", "-", "2", "000", "0:00:24"]
