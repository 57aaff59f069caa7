"""What the workbench costs: python -m benchmarks.lab [--launches N] [--iterations N] [--output FILE.json].

PPO's environment steps per second of `rayhpc lab train` and of a plain script with the same PPOConfig, each on a Ray of
its own. They train in turns, as benchmarks.speed has it; a turn counts whatever is done between two iterations, such as
metrics.csv, TensorBoard and returns, which the plain script does not do.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.places import HERE, REPOSITORY
from benchmarks.speed import OBJECT_STORE, Contender, compare, parse

RUNNERS = 1
SETTINGS = {
    "env_runners": {"num_env_runners": RUNNERS, "num_envs_per_env_runner": 4},
    "training": {
        "lr": 3e-4, "train_batch_size_per_learner": 2000, "minibatch_size": 250, "num_epochs": 4, "use_kl_loss": False,
    },
    "debugging": {"seed": 0},
}  # fmt: skip
ENVIRONMENT = ["env", f"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES={OBJECT_STORE}", "OMP_NUM_THREADS=1"]


def lab(directory: Path, turns: list[str]) -> list[str]:
    """The settings as overrides."""
    keys = [f"{group}.{key}={value}" for group, values in SETTINGS.items() for key, value in values.items()]
    endless = ["stop.iterations=1000000", "stop.mean_return=1e9", "checkpoint.every=1000000"]
    main = str(REPOSITORY / "rayhpc/lab/__main__.py")
    return [*ENVIRONMENT, *turns, main, "train", "algo=PPO", *keys, *endless, f"run.output={directory / 'results'}"]


def plain(_: Path, turns: list[str]) -> list[str]:
    """The settings as calls of the same methods."""
    return [*ENVIRONMENT, *turns, str(HERE / "plain_ppo.py")]


CONTENDERS: dict[str, Contender] = {"lab train": lab, "plain script": plain}

if __name__ == "__main__":
    compare(CONTENDERS, parse("lab", __doc__))
