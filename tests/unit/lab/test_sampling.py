"""Environments as an env runner in this process steps and films them: numbered observations, several agents."""

from __future__ import annotations

import os
from typing import Any

import pytest

from rayhpc.lab import view
from rayhpc.lab.settings import settings_of
from rayhpc.lab.train import prepared
from rayhpc.rllib.errors import UsageError

TWO_POLES = {"name": "ray.rllib.examples.envs.classes.multi_agent:MultiAgentCartPole", "config": {"num_agents": 2}}


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.setitem(os.environ, name, "dummy")


def played(env: Any, many: bool) -> tuple[int, list[Any]]:
    """Steps of an episode by a policy that has learned nothing, and its frames."""
    settings, frames = settings_of({"algo": "PPO", "env": env}), list[Any]()
    settings.environment.register()
    config = prepared(settings).env_runners(num_env_runners=0, num_envs_per_env_runner=1).callbacks(on_sample_end=None)
    config.environment(env_config={**settings.environment.config, "render_mode": "rgb_array"})
    runner = view.env_runner_of(config.callbacks(on_episode_step=view.camera(frames, settings.environment)), many)
    try:
        (episode,) = runner.sample(num_episodes=1, explore=True)
    finally:
        runner.stop()
    return len(episode), frames


@pytest.mark.parametrize(
    ("env", "many"), [("FrozenLake-v1", False), ("pettingzoo.classic.rps_v2", True)], ids=["numbered", "PettingZoo"]
)
def test_a_frame_for_each_step(env: str, many: bool) -> None:
    steps, frames = played(env, many)
    assert len(frames) == steps > 0
    assert all(frame.ndim == 3 for frame in frames)


def test_an_environment_that_draws_nothing() -> None:
    with pytest.raises(UsageError, match="draws no pictures"):
        played(TWO_POLES, many=True)
