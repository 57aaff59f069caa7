"""Rows, checkpoints and trainings for the tests of rayhpc.rllib."""

from __future__ import annotations

from pathlib import Path

from rayhpc.rllib.checkpoints import Checkpoint, Manifest, checkpoints_in, write_checkpoint
from rayhpc.rllib.command_line import DriverOptions, build_parser
from rayhpc.rllib.metrics import Row


def options(*arguments: str) -> DriverOptions:
    return build_parser("", []).parse_args(arguments, namespace=DriverOptions())


def row(iteration: int, *, mean: float = 100.0, episodes: int = 1000, seconds: float | None = None) -> Row:
    ended = 2.0 * iteration if seconds is None else seconds
    return Row(iteration, 4000 * iteration, episodes, ended, mean, mean - 1, mean + 1, 2000.0)


def manifest(iteration: int, env: str = "CartPole-v1") -> Manifest:
    return Manifest(env, iteration, 4000 * iteration, 2.0 * iteration, [100.0] * 100)


def save_to(path: str) -> None:
    Path(path).mkdir()
    (Path(path) / "state.pkl").write_bytes(b"weights")


def make_checkpoint(folder: Path, iteration: int, env: str = "CartPole-v1") -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(number) for number in range(1, iteration + 1)]
    return write_checkpoint(folder, manifest(iteration, env), rows, save_to)


def iterations_in(folder: Path) -> list[int]:
    return [checkpoint.manifest.iteration for checkpoint in checkpoints_in(folder)]
