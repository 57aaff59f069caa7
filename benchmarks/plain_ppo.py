"""The plain script beside `rayhpc lab train`: the same PPOConfig, and nothing else."""

from __future__ import annotations

import ray
from ray.rllib.algorithms.ppo import PPOConfig

from benchmarks.lab import SETTINGS

ray.init(log_to_driver=False, logging_level="ERROR")
config = PPOConfig().environment("CartPole-v1")
for group, values in SETTINGS.items():
    getattr(config, group)(**values)
algorithm = config.build_algo()
while True:
    algorithm.train()
