#!/usr/bin/env python3
"""Train PPO on all nodes of a Ray cluster; ends with 0 when done, 75 when it wants to be run again, else 1.

How to run
----------
In an allocation, or on a laptop with four ranks::

    mpirun -np 4 python -m rayhpc.start examples/train_ppo.py --env CartPole-v1

It calls ray.init(), which attaches to the cluster of $RAY_ADDRESS and starts a Ray of its own where there is none. So
``python examples/train_ppo.py`` works too. It needs rayhpc[rllib] and the environment's packages. One CPU is left to
the learner, which is in this process; every other CPU of the cluster gets an env runner. ``--help`` lists the flags;
`ppo_config` is the place for any others. All else is rayhpc.rllib, which any RLlib driver can use: docs/rllib.md.

What it writes, in ppo-results/<env> unless --output says otherwise:

    metrics.csv           one line per iteration, as it ends
    checkpoint-000010/    RLlib's checkpoint (`algorithm`, for Algorithm.from_checkpoint), metrics.csv, manifest.json
    result.json           what was reached, why it ended, where it ran; absent while it runs and after a crash
    learning-curve.png    mean return over environment steps

When the job's time is nearly up (SIGUSR1, SIGTERM, or $RAYHPC_DEADLINE in Unix seconds) it ends the iteration, writes a
checkpoint and exits with 75. In a job script always say ``--resume``: the first job then starts from zero, and each
job after it goes on with the same iteration, optimizer and metrics.csv. A checkpoint that a kill cut in half is never
taken. Episodes under way at the end of a job are lost, and random numbers are drawn anew: a resumed run learns like
one that was never stopped, but not bit by bit.

Results to expect: docs/rllib.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rayhpc.rllib import command_line
from rayhpc.rllib.command_line import DriverOptions, Flag, above_zero, at_least
from rayhpc.rllib.driver import drive, leave, prepare
from rayhpc.rllib.env_runners import episode_returns_logger, most_env_runners
from rayhpc.rllib.environments import stop_return
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.signals import Signals
from rayhpc.rllib.training import Plan, Training

if TYPE_CHECKING:
    from ray.rllib.algorithms.ppo import PPOConfig

SAMPLE_TIMEOUT_S = 600.0


class Options(DriverOptions):
    """The parsed command line: one attribute per flag."""

    lr: float
    gamma: float
    train_batch_size: int
    minibatch_size: int
    epochs: int


LEARNING: list[Flag] = [
    ("--lr", above_zero, 3e-4, "X", "learning rate of Adam"),
    ("--gamma", above_zero, 0.99, "X", "discount factor"),
    ("--train-batch-size", at_least(1), 4000, "N", "environment steps per iteration, of all env runners"),
    ("--minibatch-size", at_least(1), 250, "N", "environment steps per gradient update"),
    ("--epochs", at_least(1), 8, "N", "passes over the train batch in each iteration"),
]  # fmt: skip


def ppo_config(options: Options, env_runners: int, seed: int) -> PPOConfig:
    """RLlib's configuration: the place to change what is learned, and how."""
    from ray.rllib.algorithms.ppo import PPOConfig

    return (
        PPOConfig()
        .environment(options.env)
        .framework("torch")
        .env_runners(
            num_env_runners=env_runners,
            num_envs_per_env_runner=options.envs_per_runner,
            sample_timeout_s=SAMPLE_TIMEOUT_S,
        )
        .training(
            lr=options.lr,
            gamma=options.gamma,
            train_batch_size_per_learner=options.train_batch_size,
            minibatch_size=options.minibatch_size,
            num_epochs=options.epochs,
            lambda_=0.95,
            clip_param=0.2,
            vf_clip_param=math.inf,
            vf_loss_coeff=0.5,
            # RLlib's checkpoints lack the adaptive KL coefficient: a resumed run would learn differently.
            use_kl_loss=False,
        )
        .callbacks(on_sample_end=episode_returns_logger())
        .debugging(seed=seed, log_level="ERROR")
    )


def plan(options: Options) -> Plan:
    """What rayhpc.rllib is asked for; UsageError where it cannot work."""
    if options.minibatch_size > options.train_batch_size:
        raise UsageError("--minibatch-size must not be larger than --train-batch-size")
    return Plan(
        algorithm="PPO",
        env=options.env,
        config=partial(ppo_config, options),
        stop=command_line.stop_conditions(options, stop_return(options.env)),
        require_return=options.require_return,
        seed=options.seed,
        num_env_runners=options.num_env_runners,
        most_env_runners=most_env_runners(options.train_batch_size, options.envs_per_runner),
        ray_address=options.ray_address,
        checkpoint_every=options.checkpoint_every,
        keep=options.keep,
    )


def read(arguments: Sequence[str] | None) -> Options:
    """The command line; SystemExit 2 where it is wrong."""
    description = "Train PPO on a Gymnasium environment, with env runners on all nodes of a Ray cluster."
    return command_line.build_parser(description, LEARNING).parse_args(arguments, namespace=Options())


def ready(arguments: Sequence[str] | None, signals: Signals) -> Training:
    """Everything that can be checked without Ray; UsageError where it cannot work."""
    options = read(arguments)
    return prepare(plan(options), command_line.place_of(options), signals)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a failure leaves as an exception, which Python makes 1."""
    return drive("train_ppo", partial(ready, arguments))


if __name__ == "__main__":
    leave(main())
