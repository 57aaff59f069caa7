"""The example's parts that need no Ray: its command line, and what it says at once."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from rayhpc.examples import train_ppo as ppo
from rayhpc.rllib.environments import STOP_RETURNS
from rayhpc.rllib.signals import Signals
from tests.unit.rllib.making import make_checkpoint

EXAMPLE = Path(__file__).parents[3] / "examples" / "train_ppo.py"


def options(*arguments: str) -> ppo.Options:
    return ppo.read(arguments)


def test_signals_are_caught_before_anything_slow_is_imported() -> None:
    script = "import sys, train_ppo; sys.exit(bool({'ray', 'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-B", "-c", script], cwd=EXAMPLE.parent, check=False).returncode == 0


# ---- the command line


def test_defaults_train_cartpole_to_450() -> None:
    chosen = options()
    assert (chosen.env, chosen.stop_iterations, chosen.seed) == ("CartPole-v1", 200, 0)
    assert STOP_RETURNS["CartPole-v1"] == 450
    assert (chosen.resume, chosen.ray_address, chosen.output, chosen.num_env_runners) == (None, None, None, None)


def test_every_option_has_a_flag_and_every_flag_an_option() -> None:
    assert set(vars(options())) == set(get_type_hints(ppo.Options))


@pytest.mark.parametrize(
    "arguments",
    [["--lr", "0"], ["--lr", "inf"], ["--epochs", "0"], ["--num-env-runners", "-1"], ["--keep", "0"], ["--seed", "x"]],
)
def test_a_senseless_number_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        options(*arguments)
    assert refusal.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "resume"),
    [([], None), (["--resume"], ""), (["--resume", "a/checkpoint-000010"], "a/checkpoint-000010")],
)
def test_resume_takes_a_path_or_none(arguments: list[str], resume: str | None) -> None:
    assert options(*arguments).resume == resume


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signals: Signals) -> Path:
    """A directory of its own; main() finds no cluster and its handlers are taken back."""
    if missing := [name for name in ("gymnasium", "ray", "torch") if not importlib.util.find_spec(name)]:
        pytest.skip(f"needs {missing}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAYHPC_DEADLINE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_deadline_in_the_past_asks_for_another_run(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(Path("ppo-results/CartPole-v1"), 20)
    monkeypatch.setenv("RAYHPC_DEADLINE", "1")
    assert ppo.main(["--resume"]) == 75
    result = json.loads((alone / "ppo-results/CartPole-v1/result.json").read_text())
    assert (result["stop_reason"], result["iterations"], result["timesteps"]) == ("deadline", 20, 80_000)
    assert result["checkpoint"].endswith("ppo-results/CartPole-v1/checkpoint-000020")


def test_a_finished_training_needs_no_cluster(alone: Path) -> None:
    make_checkpoint(alone, 20)
    assert ppo.main(["--output", str(alone), "--resume", "--stop-iterations", "20"]) == 0
    assert ppo.main(["--output", str(alone), "--resume", "--stop-iterations", "20", "--require-return", "101"]) == 1


def test_nothing_known_is_null(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_DEADLINE", "1")
    assert ppo.main([]) == 75
    result = json.loads((alone / "ppo-results/CartPole-v1/result.json").read_text())
    assert (result["best_return"], result["last_return"], result["checkpoint"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "NoSuchEnvironment-v1"], "NoSuchEnvironment"),
        (["--env", "no_such_module:Thing-v0"], "no_such_module"),
        (["--minibatch-size", "4001"], "--minibatch-size"),
        (["--resume", "nowhere"], "no complete checkpoint"),
        (["--ray-address", "127.0.0.1:1"], "no Ray cluster"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    alone: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(alone.iterdir()) == []
