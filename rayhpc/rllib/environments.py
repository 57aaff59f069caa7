"""Is there such an environment, and when is it solved."""

from __future__ import annotations

from rayhpc.rllib.errors import UsageError

STOP_RETURNS = {"CartPole-v1": 450.0}


def stop_return(env: str) -> float | None:
    """The return at which training may stop: ours, else the environment's own; UsageError if there is none such."""
    threshold = reward_threshold(env)
    return STOP_RETURNS.get(env, threshold)


def reward_threshold(env: str) -> float | None:
    """The return at which the environment counts as solved, if it says so; UsageError if there is none."""
    import gymnasium

    try:
        environment = gymnasium.make(env)
    except (gymnasium.error.Error, ImportError) as problem:
        raise UsageError(f"--env {env}: {problem}") from problem
    environment.close()
    return environment.spec.reward_threshold if environment.spec else None
