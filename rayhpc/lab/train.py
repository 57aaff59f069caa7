"""`rayhpc lab train`: from settings to a plan of rayhpc.rllib."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import rayhpc
from rayhpc.lab import trial
from rayhpc.lab.environments import spaces_of
from rayhpc.lab.loggers import loggers_of
from rayhpc.lab.settings import Settings
from rayhpc.lab.video import recorder_of
from rayhpc.rllib.checkpoints import newest_checkpoint
from rayhpc.rllib.driver import prepare
from rayhpc.rllib.env_runners import episode_returns_logger, most_env_runners
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.files import write_whole
from rayhpc.rllib.output import Place
from rayhpc.rllib.share import own_share
from rayhpc.rllib.signals import Signals
from rayhpc.rllib.stop import StopConditions
from rayhpc.rllib.training import Plan, Training

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

FOLDER = Path("lab-results")
# DQN's epsilon, SAC's replay and others learn from small steps: any number of env runners has work.
ANY_NUMBER = 1_000_000


def ready(settings: Settings, signals: Signals) -> Training:
    """Everything that can be checked without Ray, and the output directory; UsageError where it cannot work."""
    for warning in settings.warnings:
        print(f"lab: {warning}", file=sys.stderr, flush=True)
    training = prepare(plan_of(settings), place_of(settings), signals)
    write_whole(training.output / "config.yaml", yaml.safe_dump(settings.plain, sort_keys=False).encode())
    training.watchers = [*loggers_of(settings, training), *recorder_of(settings), trial.reporter()]
    return training


def place_of(settings: Settings) -> Place:
    """Where the results go; a job that its script runs again goes on, whatever the line says, and so does a trial.

    The names of options are those of the configuration.
    """
    run, again = settings.run, rayhpc.restarts() > 0
    own = trial.directory() if run.output is None else None
    begun = own is not None and newest_checkpoint(own) is not None
    resume = "" if run.resume is True or begun or (again and not run.resume) else run.resume or None
    output = Path(run.output) if run.output else own
    return Place(settings.environment.name, output, resume, run.overwrite and not again, FOLDER, _flag)


def _flag(name: str) -> str:
    return {"env": "env", "resume": "run.resume=true", "overwrite": "run.overwrite=true"}.get(name, f"run.{name}")


def plan_of(settings: Settings) -> Plan:
    """What rayhpc.rllib is asked for; UsageError where RLlib finds the configuration inconsistent."""
    config, stop = prepared(settings), settings.stop
    spec = getattr(settings.environment.made(), "spec", None)
    solved = stop.mean_return if stop.mean_return is not None else getattr(spec, "reward_threshold", None)
    batch = config.total_train_batch_size if config.algo_class.__name__ == "PPO" else 0
    return Plan(
        algorithm=settings.algorithm,
        env=settings.environment.name,
        config=partial(with_cluster, settings, config),
        stop=StopConditions(solved, stop.iterations, stop.timesteps, stop.minutes),
        require_return=stop.require_return,
        seed=config.seed or 0,
        num_env_runners=None if settings.auto else config.num_env_runners,
        most_env_runners=most_env_runners(batch, config.num_envs_per_env_runner) if batch else ANY_NUMBER,
        other_cpus=config.evaluation_num_env_runners + config.num_learners,
        checkpoint_every=settings.checkpoint.every,
        keep=settings.checkpoint.keep,
    )


def prepared(settings: Settings) -> AlgorithmConfig:
    """The configuration with what training needs: returns of all episodes, policies of all agents, evaluation."""
    from gymnasium.spaces import Box

    config, given = settings.config.copy(copy_frozen=False), settings.plain
    own = config.callbacks_on_sample_end or []
    config.callbacks(on_sample_end=[episode_returns_logger(), *(own if isinstance(own, list) else [own])])
    if "log_level" not in given.get("debugging", {}):
        config.debugging(log_level="ERROR")
    evaluation = given.get("evaluation", {})
    if evaluation.get("evaluation_interval") and "evaluation_num_env_runners" not in evaluation:
        config.evaluation(evaluation_num_env_runners=1)
    spaces = spaces_of(settings.environment)
    vectors = all(isinstance(space, Box) for space in spaces.values())
    if not vectors and "env_to_module_connector" not in given.get("env_runners", {}):
        config.env_runners(env_to_module_connector=partial(flat, multi_agent="" not in spaces))
    if "" not in spaces and "policies" not in given.get("multi_agent", {}):
        config.multi_agent(policies={"shared"}, policy_mapping_fn=shared_policy)
    try:
        config.copy(copy_frozen=False).validate()  # which fills in values as it looks for contradictions
    except (ValueError, TypeError, NotImplementedError) as problem:
        raise UsageError(f"RLlib refuses the configuration: {' '.join(str(problem).split())}") from problem
    return config


def flat(*_: Any, multi_agent: bool, **__: Any) -> Any:
    """Observations as vectors: RLlib's networks take no numbered, and no composed ones."""
    from ray.rllib.connectors.env_to_module import FlattenObservations

    return FlattenObservations(multi_agent=multi_agent)


def shared_policy(_agent: Any, *_: Any, **__: Any) -> str:
    """One policy for all agents."""
    return "shared"


def with_cluster(settings: Settings, config: AlgorithmConfig, env_runners: int, seed: int) -> AlgorithmConfig:
    """The configuration for the cluster that there is: env runners on its CPUs, learners on its GPUs."""
    import ray

    settings.environment.register()
    config = config.copy(copy_frozen=False)
    config.env_runners(num_env_runners=env_runners)
    if config.seed is not None:
        config.debugging(seed=seed)
    share, given = own_share(), settings.plain.get("learners", {})
    cluster = ray.cluster_resources()
    cpus, gpus = (share.cpus, share.gpus) if share else (cluster.get("CPU", 0), int(cluster.get("GPU", 0)))
    if gpus and not {"num_learners", "num_gpus_per_learner"} & set(given):
        # One learner in this process sees the GPU, or the part of one, that the trial holds.
        alone = share is not None or gpus == 1
        config.learners(num_learners=0 if alone else int(gpus), num_gpus_per_learner=min(gpus, 1))
    if cpus < 2 + config.evaluation_num_env_runners:
        config.evaluation(evaluation_num_env_runners=0)
    elif config.evaluation_num_env_runners and "evaluation_parallel_to_training" not in settings.plain["evaluation"]:
        config.evaluation(evaluation_parallel_to_training=True)
    return config
