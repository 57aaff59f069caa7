"""The options that every training driver has: when to stop, which cluster, where results go."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rayhpc.rllib.metrics import WINDOW
from rayhpc.rllib.output import Place
from rayhpc.rllib.stop import StopConditions


class DriverOptions(argparse.Namespace):
    """The parsed command line: one attribute per flag. A driver adds its own in a subclass."""

    env: str
    seed: int
    stop_return: float | None
    stop_iterations: int
    stop_timesteps: int | None
    stop_minutes: float | None
    require_return: float | None
    num_env_runners: int | None
    envs_per_runner: int
    ray_address: str | None
    output: Path | None
    checkpoint_every: int
    keep: int
    resume: str | None
    overwrite: bool


def at_least(least: int) -> Callable[[str], int]:
    """A reader of whole numbers that are not below `least`, for argparse."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    return whole_number


def above_zero(text: str) -> float:
    """Read a finite number above zero, for argparse."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


# Name, reader, default, metavar, meaning.
Flag = tuple[str, Callable[[str], object], object, str, str]

ENV_AND_SEED: list[Flag] = [
    ("--env", str, "CartPole-v1", "ID", "Gymnasium environment, as id or module:id"),
    ("--seed", at_least(0), 0, "N", "seed of the networks and the environments"),
]
FLAGS: dict[str, list[Flag]] = {
    "when to stop: at the first of these, resumed runs included": [
        ("--stop-return", float, None, "R", f"mean return of the last {WINDOW} episodes (default: 450 for"
         " CartPole-v1, else the environment's own reward threshold)"),
        ("--stop-iterations", at_least(1), 200, "N", "iterations"),
        ("--stop-timesteps", at_least(1), None, "N", "environment steps"),
        ("--stop-minutes", above_zero, None, "X", "minutes of training"),
        ("--require-return", float, None, "R", "end with 1 if the mean return never reached R"),
    ],
    "cluster": [
        ("--num-env-runners", at_least(0), None, "N", "processes that step environments; 0: the driver does"
         " (default: one for every CPU of the cluster but one, which is the learner's)"),
        ("--envs-per-runner", at_least(1), 4, "N", "environments in each env runner, stepped together"),
        ("--ray-address", str, None, "HOST:PORT", "cluster to attach to (default: $RAY_ADDRESS, else a"
         " Ray of its own on this host)"),
    ],
    "results": [
        ("--output", Path, None, "DIR", "place of metrics.csv, learning-curve.png, result.json and"
         " checkpoints (default: ppo-results/<env>, or <env>-run2 and so on once there are checkpoints)"),
        ("--checkpoint-every", at_least(1), 10, "N", "iterations from one checkpoint to the next"),
        ("--keep", at_least(1), 3, "K", "newest checkpoints to keep"),
    ],
}  # fmt: skip

EPILOG = """Exit codes: 0 done; 1 failed, or --require-return missed; 2 bad arguments; 75 stopped with a checkpoint
by SIGUSR1, SIGTERM or $RAYHPC_DEADLINE, run it again with --resume; 130 stopped with a checkpoint by Ctrl-C.
The learner uses one thread unless $OMP_NUM_THREADS says otherwise."""

RESUME = """go on from this checkpoint, or from the newest complete one in this directory (default: in the output;
if none is there, start from zero, so that a job script can always say --resume)"""


def build_parser(description: str, learning: Sequence[Flag]) -> argparse.ArgumentParser:
    """Every flag with its default and its meaning; learning: those that only this driver has."""
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    env, seed = ENV_AND_SEED
    groups: Mapping[str, Sequence[Flag]] = {"learning": [env, *learning, seed], **FLAGS}
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for name, kind, default, metavar, text in flags:
            shown = text if default is None else f"{text} (default: {default})"
            group.add_argument(name, type=kind, default=default, metavar=metavar, help=shown)
    group.add_argument("--overwrite", action="store_true", help="delete the results of an earlier run there")
    group.add_argument("--resume", nargs="?", const="", metavar="PATH", help=RESUME)
    return parser


def stop_conditions(options: DriverOptions, solved: float | None) -> StopConditions:
    """When to stop; solved: the return at which the environment is, for who names none."""
    returned = solved if options.stop_return is None else options.stop_return
    return StopConditions(returned, options.stop_iterations, options.stop_timesteps, options.stop_minutes)


def place_of(options: DriverOptions) -> Place:
    """Where the results go, and what to go on from."""
    return Place(options.env, options.output, options.resume, options.overwrite)
