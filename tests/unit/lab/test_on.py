"""`rayhpc lab train --on WHERE`: the line becomes the driver of a job."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rayhpc.cli.lab import lab
from rayhpc.lab.settings import settings_of
from rayhpc.lab.train import place_of

LINE = ["--on", "slurm", "-N", "4", "-t", "60", "--dry-run"]


def train(*words: str) -> Result:
    return CliRunner().invoke(lab, ["train", *words])


def driver(done: Result) -> list[str]:
    """The driver in the jobscript that was shown."""
    (line,) = [line for line in done.output.splitlines() if line.startswith("set -- -m rayhpc.lab")]
    return shlex.split(line)[2:]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # what is set for workers goes back


def test_the_line_is_the_driver_of_the_job() -> None:
    env = "env={name: CartPole-v1, config: {}}"
    done = train(*LINE, "algo=ppo", env, "training.lr=3e-4")
    assert done.exit_code == 0, done.output
    assert driver(done) == ["-m", "rayhpc.lab", "train", "algo=ppo", env, "training.lr=3e-4"]
    assert "--nodes=4" in done.output.splitlines()[0]
    assert not list(Path.cwd().iterdir())


def test_hydras_own_options_go_along(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [lab, _self_]\ntraining: {lr: 0.1}\n")
    done = train(*LINE, "-cd", ".", "-cn", "mine", "-m", "training.gamma=0.9,0.99")
    options = ["--config-dir=.", "--config-name=mine", "-m"]
    assert driver(done) == ["-m", "rayhpc.lab", "train", *options, "training.gamma=0.9,0.99"]


def test_at_a_site_with_spares() -> None:
    done = train("--on", "polaris", "-N", "2", "--spares", "1", "-t", "30", "-A", "me", "--dry-run", "env=CartPole-v1")
    assert done.exit_code == 0, done.output
    assert driver(done) == ["-m", "rayhpc.lab", "train", "env=CartPole-v1"]
    (command,) = [line for line in done.output.splitlines() if line.startswith("qsub ")]
    assert "-l select=3:ncpus=64" in command
    assert "RAYHPC_SITE=polaris" in done.output


def test_a_place_that_is_not_known() -> None:
    done = train("--on", "slrm", "env=CartPole-v1")
    assert done.exit_code == 2
    assert "'slrm' is neither a scheduler nor a site; known: slurm, " in done.output


def test_what_is_wrong_is_not_submitted() -> None:
    done = train(*LINE, "training.lrr=1")
    assert done.exit_code == 2
    assert "nearest: training.lr" in done.output
    assert "set --" not in done.output


@pytest.mark.parametrize("words", [("-N", "4"), ("--dry-run",), ("--run-dir", "runs"), ("--gpus-per-node", "0")])
def test_an_option_of_the_job_without_a_job(words: tuple[str, ...]) -> None:
    done = train(*words)
    assert done.exit_code == 2
    assert "is for a job: give --on slurm|" in done.output


@pytest.mark.parametrize(("given", "restarts", "resume"), [({}, "0", None), ({}, "1", ""), ({"resume": True}, "0", "")])
def test_a_job_that_runs_again_goes_on(
    given: dict[str, object], restarts: str, resume: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYHPC_RESTARTS", restarts)
    place = place_of(settings_of({"algo": "PPO", "env": "CartPole-v1", "run": {"overwrite": True, **given}}))
    assert place.resume == resume
    assert place.overwrite == (restarts == "0")
