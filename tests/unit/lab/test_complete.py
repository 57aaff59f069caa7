"""The shell's Tab key on the overrides, by way of the protocol between click and the shell."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from rayhpc.cli.main import main


def offered(*words: str) -> list[str]:
    shell = ShellComplete(main, {}, "rayhpc", "_RAYHPC_COMPLETE")
    return [each.value for each in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize("command", ["train", "config"])
def test_keys(command: str) -> None:
    assert offered("lab", command, "env_runners.num_envs") == ["env_runners.num_envs_per_env_runner="]
    assert "training.clip_param=" in offered("lab", command, "training.")
    assert offered("lab", command, "stop.mean") == ["stop.mean_return="]


def test_the_keys_of_the_algorithm_that_is_named() -> None:
    assert offered("lab", "train", "algo=dqn", "training.num_at") == ["training.num_atoms="]
    assert offered("lab", "train", "training.num_at") == []
    assert offered("lab", "train", "algo=nonsense", "training.clip_p") == ["training.clip_param="]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["algo=d"], ["algo=DQN", "algo=DreamerV3"]),
        (["algo", "=", "d"], ["DQN", "DreamerV3"]),  # bash divides words at =
        (["env=CartPole-v"], ["env=CartPole-v0", "env=CartPole-v1"]),
        (["experiment=pend"], ["experiment=pendulum-sac"]),
        (["training.lr="], []),
    ],
)
def test_values(words: list[str], values: list[str]) -> None:
    assert offered("lab", "train", *words) == values


def test_values_after_a_bare_sign() -> None:
    assert "PPO" in offered("lab", "train", "algo", "=")


def test_the_options_of_a_job() -> None:
    assert {"slurm", "polaris"} < set(offered("lab", "train", "--on", ""))
    assert "--on" in offered("lab", "train", "--o")
