"""`rayhpc lab view`: run a checkpoint's policy, film it, say what it reached. One process, no Ray, no display."""

from __future__ import annotations

import importlib
import logging
import math
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from rayhpc.lab.algorithms import quiet
from rayhpc.lab.environments import Environment, environment_of, spaces_of
from rayhpc.rllib.checkpoints import Checkpoint, checkpoint_at, newest_checkpoint
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.evaluations import margin

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.env.env_runner import EnvRunner


@dataclass(frozen=True)
class Film:
    """What was seen: each episode's return and length, and a frame of each step."""

    returns: list[float]
    lengths: list[int]
    frames: list[Any] = field(default_factory=list)
    frames_per_second: float = 30.0


def found(path: Path) -> Checkpoint:
    """The checkpoint at a path, or the newest one in it; UsageError if there is none."""
    checkpoint = checkpoint_at(path) or newest_checkpoint(path)
    if checkpoint is None:
        raise UsageError(f"{path}: there is no complete checkpoint")
    return checkpoint


def film(checkpoint: Checkpoint, episodes: int, seed: int, *, explore: bool = False, render: bool = True) -> Film:
    """Run whole episodes with the policy of a checkpoint; UsageError where the environment draws no pictures."""
    # pygame asks for a screen and for a loudspeaker otherwise.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    environment = _environment(checkpoint)
    frames: list[Any] = []
    config = _config(checkpoint, environment, render)
    config.debugging(seed=seed).callbacks(on_episode_step=camera(frames, environment) if render else None)
    runner = env_runner_of(config, "" not in spaces_of(environment))
    try:
        _restore(runner, checkpoint)
        played = runner.sample(num_episodes=episodes, explore=explore)
    finally:
        runner.stop()
    lengths = [len(each) for each in played]
    return Film([float(each.get_return()) for each in played], lengths, frames, _speed(environment))


def _environment(checkpoint: Checkpoint) -> Environment:
    """That of the checkpoint, with the env_config of the configuration beside it."""
    path = checkpoint.path.parent / "config.yaml"
    settings = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return environment_of(checkpoint.manifest.env, settings.get("environment", {}).get("env_config", {}))


def _config(checkpoint: Checkpoint, environment: Environment, render: bool) -> AlgorithmConfig:
    """The configuration that it was trained with, for one environment in this process."""
    with quiet():
        from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    # RLlib warns of a class of its own, which it uses itself.
    logging.getLogger("ray._common.deprecation").setLevel(logging.ERROR)

    saved = pickle.loads((checkpoint.path / "algorithm" / "class_and_ctor_args.pkl").read_bytes())
    config = AlgorithmConfig.from_state(saved["ctor_args_and_kwargs"][0][0])
    environment.register()
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1, gym_env_vectorize_mode="sync")
    more = {"render_mode": "rgb_array"} if render else {}
    return config.environment(env_config={**environment.config, **more}).callbacks(on_sample_end=None)


def env_runner_of(config: AlgorithmConfig, multi_agent: bool) -> EnvRunner:
    """One in this process."""
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    kind = config.env_runner_cls or (MultiAgentEnvRunner if multi_agent else SingleAgentEnvRunner)
    return kind(config=config, worker_index=0)


def _restore(runner: EnvRunner, checkpoint: Checkpoint) -> None:
    """The connectors' state is the env runner's, the weights are the learner's."""
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    algorithm = checkpoint.path / "algorithm"
    runner.restore_from_path(str((algorithm / "env_runner").resolve()))
    weights = (algorithm / "learner_group" / "learner" / "rl_module").resolve()
    multi = isinstance(runner.module, MultiRLModule)
    runner.module.restore_from_path(str(weights if multi else weights / "default_policy"))


def camera(frames: list[Any], environment: Environment) -> Callable[..., None]:
    """A callback that adds a frame at each step; UsageError where the environment draws none."""

    def on_episode_step(*, env: Any, env_index: int, **_: Any) -> None:
        try:
            picture = env.envs[env_index].render()
        except Exception as problem:
            why = f"{type(problem).__name__}: {problem}"
            raise UsageError(f"{environment.name} draws no pictures: its render() failed: {why}") from problem
        if picture is None:
            raise UsageError(f"{environment.name} draws no pictures: its render() wants render_mode='rgb_array'")
        frames.append(picture)

    return on_episode_step


def _speed(environment: Environment) -> float:
    made = environment.made()
    metadata = getattr(made, "metadata", None) or {}
    return float(metadata.get("render_fps", 30.0))


def writer_for(out: Path) -> Callable[[Film, Path], None]:
    """What writes such a file: a .gif by Pillow, a .mp4 by imageio-ffmpeg; UsageError for another ending."""
    if out.suffix == ".mp4":
        try:
            importlib.import_module("imageio_ffmpeg")
        except ImportError as problem:
            raise UsageError(f"--out {out}: {problem}: pip install imageio-ffmpeg, or ask for a .gif") from problem
        return write_mp4
    if out.suffix != ".gif":
        raise UsageError(f"--out {out}: .gif or .mp4 is wanted")
    return write_gif


def write_gif(seen: Film, out: Path) -> None:
    """Write the frames, each with the number of its step."""
    first, *rest = (_numbered(frame, number) for number, frame in enumerate(seen.frames, 1))
    # GIF counts in hundredths of a second, and viewers play anything below two of them slowly.
    duration = max(20, 10 * round(100 / seen.frames_per_second))
    first.save(out, save_all=True, append_images=rest, duration=duration, loop=0, optimize=False)


def _numbered(frame: Any, number: int) -> Any:
    """A frame with the number of its step, by which equal neighbours differ: Pillow would join them into one."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(frame)
    ImageDraw.Draw(picture).text((4, 4), f"{number}", fill="black", stroke_width=2, stroke_fill="white")
    return picture


def write_mp4(seen: Film, out: Path) -> None:
    """Write the frames by way of ffmpeg."""
    import imageio_ffmpeg

    height, width, _ = seen.frames[0].shape
    writer = imageio_ffmpeg.write_frames(str(out), (width, height), fps=seen.frames_per_second, macro_block_size=2)
    writer.send(None)
    for frame in seen.frames:
        writer.send(frame.tobytes())
    writer.close()


def figures(seen: Film) -> str:
    """A line for each episode, and the mean with its 95 % interval."""
    lines = [
        f"episode {number}: return {each:.1f}, {length} steps"
        for number, (each, length) in enumerate(zip(seen.returns, seen.lengths, strict=True), 1)
    ]
    episodes = f"{len(lines)} episode{'s' if len(lines) > 1 else ''}"
    return "\n".join([*lines, f"mean return {interval(seen.returns)} over {episodes}"])


def interval(values: Sequence[float]) -> str:
    """The mean and half the width of its 95 % interval."""
    width = margin(values)
    return f"{fmean(values):.1f}" + ("" if math.isnan(width) else f" +- {width:.1f} (95 %)")
