"""Environments: a Gymnasium id, module:Class, a file of the user's, or a PettingZoo module; tried before Ray starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

from rayhpc.lab.objects import load, module_of
from rayhpc.rllib.errors import UsageError


@dataclass(frozen=True)
class Environment:
    """name: as the user gave it. create: makes one, given env_config; None for a Gymnasium id, which RLlib knows."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    create: Callable[[Mapping[str, Any]], Any] | None = None

    def register(self) -> None:
        """Make it known to RLlib, on every node."""
        from ray.tune.registry import register_env

        if self.create is not None:
            register_env(self.name, self.create)

    def made(self, **more: Any) -> Any:
        """One of it."""
        import gymnasium

        settings = {**self.config, **more}
        return gymnasium.make(self.name, **settings) if self.create is None else self.create(settings)


def ids() -> list[str]:
    """Those that Gymnasium knows here."""
    import gymnasium

    return sorted(name for name in gymnasium.registry if ":" not in name)


def environment_of(name: str, config: dict[str, Any]) -> Environment:
    """What a name stands for; UsageError if nothing, or if one cannot be made, reset and stepped."""
    if name.endswith(".py"):
        create: Callable[[Mapping[str, Any]], Any] | None = partial(from_class, only_class(module_of(name)))
    elif name.startswith("pettingzoo."):
        create = partial(from_pettingzoo, name)
        module_of(name)
    elif ":" in name and _is_object(name):
        create = partial(from_class, load(name))
    else:
        create = None
    environment = Environment(name, config, create)
    try_out(environment)
    return environment


def _is_object(name: str) -> bool:
    """Whether it is our module:Class; Gymnasium's module:id has a version at its end, or a module that registers it."""
    where, _, attribute = name.rpartition(":")
    return where.endswith(".py") or attribute.isidentifier()


def only_class(module: ModuleType) -> type:
    """The one environment that a file defines; UsageError where there are none or several."""
    import gymnasium
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

    kinds = (gymnasium.Env, MultiAgentEnv)
    own = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
    found = [each for each in own if issubclass(each, kinds)]
    if len(found) != 1:
        there = ", ".join(each.__name__ for each in found) or "none"
        file = module.__file__
        raise UsageError(
            f"{file}: one gymnasium.Env or MultiAgentEnv is wanted, found {there}: name it as {file}:Class"
        )
    return found[0]


def from_class(made_by: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """Call a class or function of the user's: with keyword arguments, or with RLlib's one `config`."""
    parameters = inspect.signature(made_by).parameters
    if "config" in parameters or "env_config" in parameters:
        return made_by(config)
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    known = {name: value for name, value in config.items() if takes_any or name in parameters or name != "render_mode"}
    return made_by(**known)


def from_pettingzoo(name: str, config: Mapping[str, Any]) -> Any:
    """RLlib's wrapper around PettingZoo's parallel environment, or the one whose agents take turns."""
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv

    module = module_of(name)
    parallel = hasattr(module, "parallel_env")
    made = module.parallel_env(**config) if parallel else module.env(**config)
    wrapped = (ParallelPettingZooEnv if parallel else PettingZooEnv)(made)
    # RLlib's own hands an argument on, which PettingZoo takes no longer.
    wrapped.render = made.render
    return wrapped


def try_out(environment: Environment) -> None:
    """Make one, reset it, step it: UsageError now rather than on every node later."""
    import gymnasium
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

    try:
        made = environment.made()
        if not isinstance(made, gymnasium.Env | MultiAgentEnv):
            raise TypeError(f"{type(made).__name__} is neither a gymnasium.Env nor a MultiAgentEnv")
        observation, _ = made.reset(seed=0)
        if isinstance(made, MultiAgentEnv):
            made.step({agent: made.get_action_space(agent).sample() for agent in observation})
        else:
            if not made.observation_space.contains(observation):
                raise ValueError(f"reset() returned {observation!r}, which is not in {made.observation_space}")
            made.step(made.action_space.sample())
        made.close()
    except UsageError:
        raise
    except Exception as problem:
        raise UsageError(f"env={environment.name}: {type(problem).__name__}: {problem}") from problem


def spaces_of(environment: Environment) -> dict[str, Any]:
    """The observation space of each agent; that of a single one is called ""."""
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

    made = environment.made()
    if not isinstance(made, MultiAgentEnv):
        return {"": made.observation_space}
    return {str(agent): made.get_observation_space(agent) for agent in made.possible_agents}
