"""PPO on all nodes in one screen: mpirun -np 4 python -m rayhpc.start examples/ppo_minimal.py.

Ends with 75 where it was told to stop, and goes on from its newest checkpoint when it is run again. Copy it, change the
configuration in the middle, keep the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rayhpc.rllib.driver import drive, leave, prepare
from rayhpc.rllib.env_runners import episode_returns_logger
from rayhpc.rllib.output import Place
from rayhpc.rllib.signals import Signals
from rayhpc.rllib.stop import StopConditions
from rayhpc.rllib.training import Plan, Training

if TYPE_CHECKING:
    from ray.rllib.algorithms.ppo import PPOConfig

ENV = "CartPole-v1"
OUTPUT = Path(sys.argv[1] if len(sys.argv) > 1 else "ppo-minimal")


def config(env_runners: int, seed: int) -> PPOConfig:
    """RLlib's configuration: what is learned, and how."""
    from ray.rllib.algorithms.ppo import PPOConfig

    return (
        PPOConfig()
        .environment(ENV)
        .env_runners(num_env_runners=env_runners, num_envs_per_env_runner=4)
        .training(lr=3e-4, train_batch_size_per_learner=4000, minibatch_size=250, num_epochs=8, use_kl_loss=False)
        .callbacks(on_sample_end=episode_returns_logger())
        .debugging(seed=seed, log_level="ERROR")
    )


def ready(signals: Signals) -> Training:
    """What to train, until when, and where the results go."""
    stop = StopConditions(mean_return=450, iterations=100)
    plan = Plan("PPO", ENV, config, stop)
    return prepare(plan, Place(ENV, OUTPUT, resume=""), signals)


if __name__ == "__main__":
    leave(drive("ppo_minimal", ready))
