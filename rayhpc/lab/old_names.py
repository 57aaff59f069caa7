"""Names of older Rays and of the harnesses that labs wrote around them: understood where there is one meaning."""

from __future__ import annotations

from typing import Any

from rayhpc.rllib.errors import UsageError

# A path, or the beginning of one, and what it is called now.
RENAMED = {
    "rollouts": "env_runners",
    "stop_conditions": "stop",
    "env_runners.num_rollout_workers": "env_runners.num_env_runners",
    "env_runners.num_workers": "env_runners.num_env_runners",
    "env_runners.num_envs_per_worker": "env_runners.num_envs_per_env_runner",
    "env_runners.validate_workers_after_construction": "env_runners.validate_env_runners_after_construction",
    "env_runners.recreate_failed_workers": "fault_tolerance.restart_failed_env_runners",
    "env_runners.ignore_worker_failures": "fault_tolerance.ignore_env_runner_failures",
    "env_runners.restart_failed_sub_environments": "fault_tolerance.restart_failed_sub_environments",
    "env_runners.worker_health_probe_timeout_s": "fault_tolerance.env_runner_health_probe_timeout_s",
    "env_runners.worker_restore_timeout_s": "fault_tolerance.env_runner_restore_timeout_s",
    "exploration.explore": "env_runners.explore",
    "evaluation.evaluation_num_workers": "evaluation.evaluation_num_env_runners",
    "evaluation.evaluation_num_episodes": "evaluation.evaluation_duration",
    "fault_tolerance.recreate_failed_workers": "fault_tolerance.restart_failed_env_runners",
    "fault_tolerance.recreate_failed_env_runners": "fault_tolerance.restart_failed_env_runners",
    "fault_tolerance.ignore_worker_failures": "fault_tolerance.ignore_env_runner_failures",
    "fault_tolerance.max_num_worker_restarts": "fault_tolerance.max_num_env_runner_restarts",
    "fault_tolerance.worker_health_probe_timeout_s": "fault_tolerance.env_runner_health_probe_timeout_s",
    "fault_tolerance.worker_restore_timeout_s": "fault_tolerance.env_runner_restore_timeout_s",
    "resources.num_cpus_per_worker": "env_runners.num_cpus_per_env_runner",
    "resources.num_gpus_per_worker": "env_runners.num_gpus_per_env_runner",
    "resources.custom_resources_per_worker": "env_runners.custom_resources_per_env_runner",
    "resources.num_learner_workers": "learners.num_learners",
    "resources.num_cpus_per_learner_worker": "learners.num_cpus_per_learner",
    "resources.num_gpus_per_learner_worker": "learners.num_gpus_per_learner",
    "resources.local_gpu_idx": "learners.local_gpu_idx",
    "resources.num_cpus_for_local_worker": "resources.num_cpus_for_main_process",
    "training.train_batch_size": "training.train_batch_size_per_learner",
    "training.sgd_minibatch_size": "training.minibatch_size",
    "training.num_sgd_iter": "training.num_epochs",
    "training.lambda": "training.lambda_",
    "training.model": "rl_module.model_config",
    "training.learner_class": "learners.learner_class",
    "rl_module.model_config_dict": "rl_module.model_config",
    "multi_agent.algorithm_config_overrides_per_module": "rl_module.algorithm_config_overrides_per_module",
    "checkpoint.checkpoint_frequency": "checkpoint.every",
    "checkpoint.num_to_keep": "checkpoint.keep",
    "stop.training_iteration": "stop.iterations",
    "stop.timesteps_total": "stop.timesteps",
    "stop.num_env_steps_sampled_lifetime": "stop.timesteps",
    "stop.episode_reward_mean": "stop.mean_return",
    "stop.episode_return_mean": "stop.mean_return",
    "algo.checkpoint_path": "run.resume",
    "tune.num_samples": "tune.samples",
    "run.storage_path": "run.output",
}
# What says nothing any more, and why; it is left out.
NEEDLESS = {
    "cli": "the mode is the command: rayhpc lab train, tune, view",
    "run.log_to_file": "what a job prints goes where its launcher sends it",
    "checkpoint.checkpoint_at_end": "a checkpoint of the last iteration is always written",
}
# What has no meaning here any more, and what to write in its place.
REFUSED = {
    "exploration.exploration_config": "write the algorithm's own key, such as training.epsilon of DQN",
    "exploration": "write env_runners.explore=true|false",
    "stop.time_total_s": "write stop.minutes",
}


def renamed(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings by their present names, and a warning for each old one; UsageError names all that have gone."""
    _join_name(settings)
    warnings: list[str] = []
    for old, new in RENAMED.items():
        if (value := _take(settings, old)) is not None:
            warnings.append(f"{old} is called {new} now")
            _put(settings, new, value, old)
    for old, why in NEEDLESS.items():
        if _take(settings, old) is not None:
            warnings.append(f"{old} is left out: {why}")
    if gone := [f"{old}: {instead}" for old, instead in REFUSED.items() if _take(settings, old) not in (None, {})]:
        raise UsageError("\n  ".join(gone))
    return settings, warnings


def _join_name(settings: dict[str, Any]) -> None:
    """Older harnesses name the parent of the output directory, and the directory in it."""
    if name := _take(settings, "run.name"):
        run = settings["run"]
        run["storage_path"] = f"{run.get('storage_path') or 'lab-results'}/{name}"


def present_name(path: str) -> str:
    """What a path is called now."""
    for old, new in RENAMED.items():
        if path == old or path.startswith(f"{old}."):
            path = new + path[len(old) :]
    return path


def _take(settings: dict[str, Any], path: str) -> Any:
    *groups, name = path.split(".")
    for group in groups:
        inner = settings.get(group)
        if not isinstance(inner, dict):
            return None
        settings = inner
    return settings.pop(name, None)


def _put(settings: dict[str, Any], path: str, value: Any, old: str) -> None:
    group, _, name = path.partition(".")
    if not name:
        values = value if isinstance(value, dict) else {}
        settings[group] = {**values, **settings.get(group, {})} if isinstance(settings.get(group, {}), dict) else value
        return
    inner = settings.setdefault(group, {})
    if not isinstance(inner, dict) or name in inner:
        raise UsageError(f"{old} and {path} are the same key: leave the old name out")
    inner[name] = value
