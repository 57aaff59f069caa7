"""From the command line to RLlib's configuration: every key, and what is refused. Ray is imported, never started."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rayhpc.lab.algorithms import default_config
from rayhpc.lab.check import wants_object
from rayhpc.lab.commands import lab
from rayhpc.lab.compose import Source, sweep
from rayhpc.lab.objects import load
from rayhpc.lab.schema import RAY_GROUPS, Key, schema_of
from rayhpc.lab.settings import read, settings_of
from rayhpc.rllib.errors import UsageError
from tests.launch import REPOSITORY

CARTPOLE = {"algo": "PPO", "env": "CartPole-v1"}
OBJECT = "collections:OrderedDict"
# Values for keys whose annotation does not tell one that RLlib takes.
VALUES: dict[str, Any] = {
    "environment.env": "Pendulum-v1",
    "environment.env_config": {"sutton_barto_reward": True},
    "environment.observation_space": {"_target_": "gymnasium.spaces.Discrete", "n": 3},
    "environment.action_space": {"_target_": "gymnasium.spaces.Discrete", "n": 3},
    "env_runners.batch_mode": "complete_episodes",
    "training.grad_clip_by": "norm",
    "multi_agent.count_steps_by": "agent_steps",
    "multi_agent.policies": ["one", "two"],
    "framework.framework": "torch",
    "training.lr_schedule": [[0, 0.5], [10, 0.1]],
    "training.entropy_coeff_schedule": [[0, 0.5], [10, 0.1]],
    "offline_data.input_read_schema": {"obs": "o"},
    "offline_data.input_compress_columns": ["obs"],
    "offline_data.output_compress_columns": ["obs"],
    "rl_module.algorithm_config_overrides_per_module": {"p": {"lr": 0.1}},
    "rl_module.rl_module_spec": {"_target_": "ray.rllib.core.rl_module.rl_module.RLModuleSpec"},
    "env_runners.sample_collector": "ray.rllib.evaluation.collectors.sample_collector:SampleCollector",
    "reporting.custom_stats_cls_lookup": {"own": "ray.rllib.utils.metrics.stats.base:StatsBase"},
    "experimental._torch_lr_scheduler_classes": [OBJECT],
    "callbacks.callbacks_class": "ray.rllib.callbacks.callbacks:RLlibCallback",
}
# Attributes of AlgorithmConfig that are called otherwise than the key; old names of ours go to their new one.
ATTRIBUTES = {
    "framework.framework": "framework_str",
    "evaluation.dataset_num_iters_per_offline_eval_runner": "dataset_num_iters_per_eval_runner",
    "reporting.custom_stats_cls_lookup": "stats_cls_lookup",
    "rl_module.model_config": "_model_config",
    "rl_module.rl_module_spec": "_rl_module_spec",
    "training.train_batch_size": "_train_batch_size_per_learner",
    "training.train_batch_size_per_learner": "_train_batch_size_per_learner",
    "training.model": "_model_config",
    "training.learner_class": "_learner_class",
    "learners.learner_class": "_learner_class",
    "learners.learner_connector": "_learner_connector",
    "training.learner_connector": "_learner_connector",
    "env_runners.env_to_module_connector": "_env_to_module_connector",
    "env_runners.module_to_env_connector": "_module_to_env_connector",
}
SIMPLE = (bool, int, float, str, dict, list)


def kinds(hint: Any) -> list[Any]:
    origin = typing.get_origin(hint)
    if origin is typing.Union:
        return [kind for each in typing.get_args(hint) for kind in kinds(each)]
    return [origin or hint]


def every_key() -> list[Key]:
    schema = schema_of(type(default_config("PPO")))
    return [key for group in RAY_GROUPS for key in schema[group].values() if not key.old]


def value_for(key: Key) -> Any:
    if key.path in VALUES:
        return VALUES[key.path]
    kind = next((kind for kind in SIMPLE if kind in kinds(key.hint)), None)
    if kind is None or wants_object(key.hint):
        return OBJECT
    now = getattr(default_config("PPO"), key.name, None)
    return {bool: not now, int: 7, float: 0.5, str: "text", dict: {"a": 1}, list: [1]}[kind]


def attribute_of(config: Any, key: Key) -> Any:
    callback = f"callbacks_{key.name}"
    own = callback if key.group == "callbacks" and hasattr(config, callback) else key.name
    return getattr(config, ATTRIBUTES.get(key.path, own), "missing")


def same(found: Any, value: Any) -> bool:
    """Whether an attribute holds what the command line said: a class for its name, an object for its _target_."""
    if isinstance(value, str) and ":" in value:
        return bool(found is load(value))
    if isinstance(value, list):
        return len(found) == len(value) and all(any(same(one, each) for one in found) for each in value)
    if isinstance(value, dict) and "_target_" in value:
        return type(found).__name__ == value["_target_"].rpartition(".")[2]
    if isinstance(value, dict) and isinstance(found, dict):
        return found.keys() == value.keys() and all(same(found[name], each) for name, each in value.items())
    return bool(found == value)


def test_the_groups_and_keys_are_those_of_the_installed_ray() -> None:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    schema, count = schema_of(AlgorithmConfig), 0
    for group in RAY_GROUPS:
        parameters = list(inspect.signature(getattr(AlgorithmConfig, group)).parameters.values())[1:]
        names = [each.name for each in parameters if each.kind != each.VAR_KEYWORD]
        assert list(schema[group]) == names
        count += len(names)
    assert len(RAY_GROUPS) == 18
    assert count >= 258
    # Ray's group methods return the configuration, so that they can be chained; so do three that are no groups.
    functions = {name: each for name, each in vars(AlgorithmConfig).items() if inspect.isfunction(each)}
    chained = {name for name, each in functions.items() if "Self" in str(inspect.signature(each).return_annotation)}
    others = {"copy", "update_from_dict", "get_config_for_module"}
    assert {name for name in chained if name[0] != "_"} - others == set(RAY_GROUPS)


def test_every_key_of_every_group_reaches_the_configuration() -> None:
    """Also a key of a newer Ray: it is tried without a change here."""
    wrong = []
    for key in every_key():
        value = value_for(key)
        try:
            config = settings_of({**CARTPOLE, key.group: {key.name: value}}).config
            found = attribute_of(config, key)
            if not same(found, value):
                wrong.append(f"{key.path}: {value!r} became {found!r}")
        except Exception as problem:
            wrong.append(f"{key.path}: {value!r}: {problem!r}")
    assert not wrong, "\n".join(wrong)


def test_a_model_configuration_reaches_the_module() -> None:
    config = settings_of({**CARTPOLE, "rl_module": {"model_config": {"fcnet_hiddens": [32]}}}).config
    assert config.model_config["fcnet_hiddens"] == [32]


def test_classes_and_functions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def ended(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = settings_of({**CARTPOLE, "callbacks": {"on_episode_end": "mine:ended"}}).config
    assert config.callbacks_on_episode_end.__name__ == "ended"


@pytest.mark.parametrize("algo", ["DQN", "SAC", "APPO", "IMPALA"])
def test_each_algorithm_has_its_own_keys(algo: str) -> None:
    env = "Pendulum-v1" if algo == "SAC" else "CartPole-v1"
    settings = settings_of({"algo": algo.lower(), "env": env, "training": {"lr": 0.01}})
    assert settings.algorithm == algo


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.lrr=1"], "training.lrr: group training has no such key; nearest: training.lr, which wants"),
        (["training.num_envs_per_env_runner=1"], "nearest: env_runners.num_envs_per_env_runner"),
        (["trainin.lr=1"], "trainin: there is no such group; nearest: training"),
        (["training=3"], "training=3: it is a group"),
        (["training.lr=abc"], "training.lr='abc': wants"),
        (["env_runners.num_env_runners=2.5"], "env_runners.num_env_runners=2.5: wants"),
        (["stop.iterations=many"], "stop.iterations='many': wants int >= 1 or null"),
        (["stop.minutes=0"], "stop.minutes=0: wants float > 0 or null"),
        (["algo=ppp"], "nearest: PPO"),
        (["env=Cart"], "env=Cart: NameNotFound"),
        (["env=nomodule:Foo"], "nomodule cannot be imported"),
        (["env=nowhere.py"], "nowhere.py"),
        (["exploration.exploration_config.type=x"], "exploration.exploration_config: write the algorithm's own key"),
        (["training.lr=1", "training.lr"], "training.lr"),
        (["training.lrr=1", "reporting.foo=2"], "reporting.foo"),
    ],
)
def test_what_is_wrong_ends_with_2_before_ray_starts(overrides: list[str], said: str) -> None:
    done = CliRunner().invoke(lab, ["config", *overrides])
    assert done.exit_code == 2
    assert said in done.output


def test_old_names_are_understood_with_a_warning() -> None:
    source = Source(("rollouts.num_rollout_workers=3", "stop.episode_reward_mean=450", "training.num_sgd_iter=5"))
    settings = read(source)
    assert settings.config.num_env_runners == 3
    assert settings.stop.mean_return == 450
    assert settings.config.num_epochs == 5
    assert any("rollouts is called env_runners now" in warning for warning in settings.warnings)


def test_an_old_name_beside_its_new_one_is_refused() -> None:
    with pytest.raises(UsageError, match="are the same key"):
        read(Source(("training.num_sgd_iter=5", "training.num_epochs=6")))


def test_files_groups_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pendulum.yaml").write_text("# @package _global_\nenv: Pendulum-v1\n")
    (tmp_path / "mine.yaml").write_text("defaults: [lab, _self_]\nalgo: SAC\nenv: Pendulum-v1\ntraining: {lr: 0.1}\n")
    settings = read(Source(("training.gamma=0.9",), str(tmp_path), "mine"))
    assert (settings.algorithm, settings.environment.name) == ("SAC", "Pendulum-v1")
    assert (settings.config.lr, settings.config.gamma) == (0.1, 0.9)


def test_the_name_of_a_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults: [lab, _self_]\nalgo: DQN\n")
    assert read(Source((), None, "mine")).algorithm == "DQN"
    assert read(Source((), str(tmp_path), "lab")).algorithm == "PPO"


def test_a_directory_called_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a virtual environment in the working directory often is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env" / "bin").mkdir(parents=True)
    assert read(Source(("env=Acrobot-v1",))).environment.name == "Acrobot-v1"
    with pytest.raises(UsageError, match=r"env=Acrobot-v1: env is a group of files in .*: none"):
        read(Source(("env=Acrobot-v1",), str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("broken", (), "broken.yaml"),
        ("binary", (), "binary.yaml cannot be read: 'utf-8' codec"),
        ("absent", (), "absent.yaml cannot be read: No such file"),
        ("lab", ("env=broken",), "env/broken.yaml"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "env").mkdir()
    for file in ("broken.yaml", "env/broken.yaml"):
        (tmp_path / file).write_text("a: [1\n")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\n")
    done = CliRunner().invoke(lab, ["config", "--config-dir", str(tmp_path), "--config-name", name, *words])
    assert done.exit_code == 2, done.output
    assert said in done.output


def test_a_multirun_has_each_combination() -> None:
    sources = sweep(Source(("training.lr=1e-4,3e-4", "training.gamma=0.9,0.99", "env=CartPole-v1")))
    assert len(sources) == 4
    assert sources[0].overrides == ("training.lr=0.0001", "training.gamma=0.9", "env=CartPole-v1")


OWN = """
import gymnasium, numpy
class Walk(gymnasium.Env):
    def __init__(self, length=5):
        self.length = length
        self.observation_space = gymnasium.spaces.Box(0, length, (1,), numpy.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        self.place = 0
        return numpy.array([0], numpy.float32), {}
    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        return numpy.array([self.place], numpy.float32), float(action), self.place >= self.length, False, {}
"""


def test_an_environment_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "walk.py").write_text(OWN)
    settings = settings_of({"algo": "PPO", "env": {"name": str(tmp_path / "walk.py"), "config": {"length": 3}}})
    assert settings.environment.made().length == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("return numpy.array([0]", "return numpy.array([-1]"), "not in"),
        (("class Walk(gymnasium.Env)", "class Walk"), "one gymnasium.Env or MultiAgentEnv is wanted, found none"),
        (("def reset(self, *", "def rest(self, *"), "env="),
    ],
)
def test_an_environment_that_does_not_work(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert change[0] in OWN
    file = tmp_path / f"walk_{abs(hash(change))}.py"  # Python imports a module once
    file.write_text(OWN.replace(*change))
    with pytest.raises(UsageError, match=said):
        settings_of({"algo": "PPO", "env": str(file)})


def printed(*words: str) -> str:
    done = CliRunner().invoke(lab, ["config", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_configuration_is_printed() -> None:
    assert yaml.safe_load(printed("training.lr=0.1")) == {**CARTPOLE, "training": {"lr": 0.1}}
    assert printed("rollouts.num_rollout_workers=2").startswith("# rollouts is called env_runners now\n")


def test_the_difference_from_rllibs_defaults() -> None:
    lines = printed("--diff", "training.lr=0.1", "env_runners.num_env_runners=3").splitlines()
    assert sorted(lines) == ["env: None -> 'CartPole-v1'", "lr: 5e-05 -> 0.1", "num_env_runners: 2 -> 3"]
    assert "lr: " not in printed("--diff", "training.lr=5e-5")


def test_a_key_and_a_group_are_explained() -> None:
    said = printed("explain", "env_runners.num_env_runners").splitlines()
    assert said[:3] == ["env_runners.num_env_runners", "wants: int or null", "default: 2"]
    assert "EnvRunner" in said[3]
    assert "training.num_atoms\n" in printed("explain", "algo=DQN", "training")
    assert printed("explain", "stop.iterations").endswith("\ndefault: 200\nIterations.\n")
    assert "an old name" in printed("explain", "env_runners.num_rollout_workers")
    wrong = CliRunner().invoke(lab, ["config", "explain", "env_runners.num_env_runer"])
    assert wrong.exit_code == 2
    assert "nearest: env_runners.num_env_runners" in wrong.output


def test_the_reference_is_that_of_the_installed_ray() -> None:
    """To make it again: rayhpc lab config reference > docs/lab-reference.md"""
    import ray

    committed = (REPOSITORY / "docs" / "lab-reference.md").read_text()
    constraints = (REPOSITORY / "constraints.txt").read_text()
    assert f"\nray=={ray.__version__}\n" in constraints, "the page is that of constraints.txt, another Ray is installed"
    assert printed("reference") == committed


def test_algorithms_and_environments_are_listed() -> None:
    run = CliRunner().invoke
    assert {"PPO", "DQN", "SAC"} <= set(run(lab, ["algos"]).output.split())
    assert "CartPole-v1" in run(lab, ["envs"]).output.split()
