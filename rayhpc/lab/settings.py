"""From composed settings to what is trained: RLlib's configuration, and our own groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayhpc.lab.algorithms import default_config
from rayhpc.lab.check import as_wanted, check, wants_object
from rayhpc.lab.compose import Source, compose
from rayhpc.lab.environments import Environment, environment_of
from rayhpc.lab.objects import instantiated, load
from rayhpc.lab.old_names import renamed
from rayhpc.lab.own_groups import OWN_GROUPS, Checkpoint, Logger, Run, Stop, Tune
from rayhpc.lab.schema import RAY_GROUPS, Schema, schema_of
from rayhpc.lab.tunables import taken_from
from rayhpc.rllib.errors import UsageError

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """All that was asked for. plain: as Hydra composed it, with today's names; auto: the cluster decides how many."""

    plain: dict[str, Any]
    schema: Schema
    config: AlgorithmConfig
    environment: Environment
    run: Run
    checkpoint: Checkpoint
    stop: Stop
    logger: Logger
    tune: Tune
    warnings: tuple[str, ...] = ()
    auto: bool = True

    @property
    def algorithm(self) -> str:
        """The name of the algorithm's class."""
        return str(self.config.algo_class.__name__)


def read(source: Source) -> Settings:
    """Compose, check, build: UsageError where anything is wrong. Ray is imported, not started."""
    return settings_of(compose(source))


def settings_of(composed: dict[str, Any]) -> Settings:
    """The settings that composed ones stand for."""
    plain, warnings = renamed(unfolded(composed))
    taken_from(plain)
    config = default_config(plain.get("algo"))
    schema = schema_of(type(config))
    auto = _take_auto(plain)
    check(plain, schema, kinds=False)
    built = {group: _objects(schema, group, plain.get(group, {})) for group in RAY_GROUPS}
    own = {name: plain.get(name, {}) for name in OWN_GROUPS}
    check({**built, **own}, schema, kinds=own["run"].get("check_kinds", True))
    environment = environment_of(*_environment(plain, built))
    groups = {name: kind(**own[name]) for name, kind in OWN_GROUPS.items()}
    configured = apply(config, built, environment)
    return Settings(plain, schema, configured, environment, **groups, warnings=tuple(warnings), auto=auto)


def unfolded(composed: dict[str, Any]) -> dict[str, Any]:
    """Short forms in full: env: {name, config}, framework: torch."""
    plain = {name: value for name, value in composed.items() if value is not None}
    if isinstance(env := plain.get("env"), dict):
        plain["env"] = env.get("name") or env.get("env")
        environment = {"env_config": env.get("config", env.get("env_config", {}))}
        plain["environment"] = {**environment, **plain.get("environment", {})}
    if isinstance(plain.get("framework"), str):
        plain["framework"] = {"framework": plain["framework"]}
    return plain


def _take_auto(plain: dict[str, Any]) -> bool:
    """Whether the cluster decides how many env runners there are; leaves no `auto` behind."""
    runners = plain.get("env_runners", {})
    if runners == AUTO:
        plain["env_runners"] = {}
        return True
    if isinstance(runners, dict) and runners.get("num_env_runners") == AUTO:
        plain["env_runners"] = {name: value for name, value in runners.items() if name != "num_env_runners"}
    return not (isinstance(runners, dict) and isinstance(runners.get("num_env_runners"), int))


def _objects(schema: Schema, group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group with the classes and functions in it that they name."""
    made = {name: as_wanted(instantiated(value), schema[group][name].hint) for name, value in values.items()}
    return {name: _loaded(value) if wants_object(schema[group][name].hint) else value for name, value in made.items()}


def _loaded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _loaded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_loaded(each) for each in value]
    return load(value) if isinstance(value, str) and ":" in value else value


def _environment(plain: Mapping[str, Any], built: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    named, top = built["environment"].get("env"), plain.get("env")
    if not (name := named or top) or not isinstance(name, str):
        raise UsageError(f"env={name!r}: give a Gymnasium id, module:Class, a file, or a module of PettingZoo")
    return name, built["environment"].get("env_config", {})


def apply(config: AlgorithmConfig, built: Mapping[str, Mapping[str, Any]], environment: Environment) -> AlgorithmConfig:
    """RLlib's configuration with every key that was given; UsageError where RLlib refuses one."""
    for group in RAY_GROUPS:
        if values := {**built[group], **({"env": environment.name} if group == "environment" else {})}:
            try:
                getattr(config, group)(**values)
            except (TypeError, ValueError, KeyError, AttributeError) as problem:
                given = ", ".join(f"{group}.{name}" for name in values)
                raise UsageError(f"{given}: RLlib says: {problem}") from problem
    return config
