"""The loggers, really run: W&B offline, MLflow into files; what is missing or wrong ends with 2 before Ray starts."""

from __future__ import annotations

import importlib.util
import math
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayhpc.lab.commands import lab
from rayhpc.lab.loggers import loggers_of, numbers
from rayhpc.lab.settings import settings_of
from rayhpc.rllib.metrics import Row
from rayhpc.rllib.signals import Signals
from rayhpc.rllib.stop import StopConditions
from rayhpc.rllib.training import Plan, Training
from rayhpc.sweep.metrics import TensorBoard

ROW = Row(1, 400, 20, 1.5, 21.5, 9.0, 40.0, math.nan)
RESULT = {"env_runners": {"episode_return_mean": 21.5, "gone": math.inf}, "config": {"lr": 1}}


def told(name: str, output: Path) -> None:
    """Tell this logger of one iteration, and end it."""
    plan = Plan("PPO", "CartPole-v1", lambda _runners, _seed: pytest.fail("no Ray here"), StopConditions())
    training = Training(plan, output, Signals("lab"))
    settings = settings_of({"algo": "PPO", "env": "CartPole-v1", "logger": {"tensorboard": False, **{name: True}}})
    (watcher,) = loggers_of(settings, training)
    watcher.tell(training, ROW, RESULT)
    watcher.close()


def test_finite_numbers_by_their_path() -> None:
    found = numbers(ROW, RESULT)
    assert found["env_runners/episode_return_mean"] == 21.5
    assert found["row/timesteps"] == 400
    assert not {"env_runners/gone", "row/steps_per_second", "config/lr"} & set(found)


def test_tensorboard(tmp_path: Path) -> None:
    told("tensorboard", tmp_path)
    (step,) = TensorBoard(tmp_path / "tensorboard").new()
    assert (step["step"], step["env_runners/episode_return_mean"], step["row/episodes"]) == (400, 21.5, 20)


def test_weights_and_biases_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    told("wandb", tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb sync ")]
    (written,) = Path(shlex.split(line)[2]).glob("run-*.wandb")
    assert tmp_path in written.parents
    content = written.read_bytes()
    assert b"env_runners/episode_return_mean" in content
    assert b"21.5" in content


def test_mlflow_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told("mlflow", tmp_path)
    (metric,) = (tmp_path / "mlruns").glob("*/*/metrics/env_runners/episode_return_mean")
    assert metric.read_text().split()[1:] == ["21.5", "1"]


def test_aim_into_a_repository(tmp_path: Path) -> None:
    """Aim is no part of the development environment: pip install aim."""
    pytest.importorskip("aim")
    told("aim", tmp_path)
    tables = [file.read_bytes() for file in tmp_path.glob(".aim/seqs/chunks/*/*.sst")]
    assert any(b"env_runners/episode_return_mean" in table for table in tables)


def test_a_missing_package_ends_with_2_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("aim"):
        monkeypatch.setitem(importlib.import_module("sys").modules, "aim", None)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(lab, ["train", "logger.aim=true", "run.output=out"])
    assert done.exit_code == 2, done.output
    assert "logger.aim: " in done.output
    assert "pip install aim" in done.output
