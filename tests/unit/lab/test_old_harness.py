"""A file of a harness that a lab has written around an older RLlib: it runs, or says for each key what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rayhpc.lab.commands import lab
from rayhpc.lab.compose import Source
from rayhpc.lab.settings import read
from rayhpc.lab.train import plan_of

RUNS = """
cli: {mode: train}
algo: {name: PPO, checkpoint_path: null}
run: {name: walk, storage_path: results, log_to_file: true}
environment: {env: CartPole-v1, env_config: {sutton_barto_reward: true}}
evaluation:
  evaluation_interval: 5
  evaluation_num_workers: 1
  evaluation_config: {env_config: {sutton_barto_reward: false}}
exploration: {explore: true}
framework: {framework: torch}
resources: {num_gpus: 0, num_cpus_per_worker: 1, num_learner_workers: 0}
rollouts: {num_rollout_workers: 2, num_envs_per_worker: 4, rollout_fragment_length: auto}
training:
  lr: 3.0e-4
  train_batch_size: 2000
  sgd_minibatch_size: 128
  num_sgd_iter: 5
  lambda: 0.95
  model: {fcnet_hiddens: [64, 64], vf_share_layers: true}
checkpoint: {checkpoint_frequency: 5, num_to_keep: 2, checkpoint_at_end: true}
stop_conditions: {training_iteration: 100, timesteps_total: 500000, episode_reward_mean: 450}
debugging: {seed: 7, log_level: ERROR}
"""
GONE = """
exploration: {exploration_config: {type: EpsilonGreedy}}
stop_conditions: {time_total_s: 3600}
"""


def test_a_whole_file_runs(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(RUNS)
    settings = read(Source((), str(tmp_path), "old"))
    config = settings.config
    assert (settings.algorithm, settings.environment.name) == ("PPO", "CartPole-v1")
    assert config.env_config == {"sutton_barto_reward": True}
    assert config.evaluation_config == {"env_config": {"sutton_barto_reward": False}}
    assert (config.num_env_runners, config.num_envs_per_env_runner, config.num_learners) == (2, 4, 0)
    assert (config.evaluation_num_env_runners, config.num_cpus_per_env_runner, config.explore) == (1, 1, True)
    assert (config.lr, config.train_batch_size_per_learner, config.minibatch_size) == (0.0003, 2000, 128)
    assert (config.num_epochs, config.lambda_, config.seed) == (5, 0.95, 7)
    assert config.model_config["fcnet_hiddens"] == [64, 64]
    assert (settings.checkpoint.every, settings.checkpoint.keep, settings.run.output) == (5, 2, "results/walk")
    assert (settings.stop.iterations, settings.stop.timesteps, settings.stop.mean_return) == (100, 500000, 450)
    assert plan_of(settings).num_env_runners == 2  # RLlib has looked for contradictions, too
    said = "\n".join(settings.warnings)
    for old in ("rollouts is called", "cli is left out", "run.log_to_file is left out", "training.model is called"):
        assert old in said


@pytest.mark.parametrize("more", ["", "training: {lrr: 1}\n"])
def test_what_has_gone_is_named_at_once_with_what_to_write(tmp_path: Path, more: str) -> None:
    (tmp_path / "old.yaml").write_text("algo: {name: DQN}\nenv: CartPole-v1\n" + GONE + more)
    done = CliRunner().invoke(lab, ["config", "-cd", str(tmp_path), "-cn", "old"])
    assert done.exit_code == 2
    assert "exploration.exploration_config: write the algorithm's own key, such as training.epsilon" in done.output
    assert "stop.time_total_s: write stop.minutes" in done.output
