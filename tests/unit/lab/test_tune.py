"""From tunables to a sweep over `lab train`; what is wrong with them ends with 2. Ray is imported, never started."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayhpc.cli.main import main
from rayhpc.lab import trial as lab_trial
from rayhpc.lab.commands import lab
from rayhpc.lab.compose import Source
from rayhpc.lab.settings import read
from rayhpc.lab.train import place_of
from rayhpc.lab.tune import run
from rayhpc.lab.tune.plan import TRAIN, sweep_of
from rayhpc.lab.tune.spaces import in_hydra, typical
from rayhpc.records import run_directory
from rayhpc.rllib.checkpoints import Manifest, write_checkpoint
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.share import Share, own_share
from rayhpc.sweep import plan, trials
from rayhpc.sweep.plan import Parameter, Sweep
from rayhpc.sweep.trials import DONE, FAILED, Result, Trial

LR = "tunables.training.lr={type: loguniform, values: [1e-5, 1e-2]}"


def made(*words: str, **files: str | None) -> Sweep:
    return sweep_of(Source((LR, *words), **files))


def words(sweep: Sweep) -> list[str]:
    """Those of the training."""
    return list(sweep.command[1 + len(TRAIN) :])


def test_a_configuration_becomes_a_sweep() -> None:
    sweep = made("training.gamma=0.9", "tune.samples=7", "tune.repeat=2", "tune.search=optuna", "debugging.seed=5")
    assert sweep.space == (Parameter("training.lr", "loguniform", (1e-5, 1e-2)),)
    assert words(sweep) == ["training.gamma=0.9", "env_runners.num_env_runners=0", "debugging.seed={seed}"]
    assert (sweep.name, sweep.metric, sweep.mode) == ("CartPole-v1", "mean_return", "max")
    assert (sweep.samples, sweep.repeat, sweep.trials, sweep.search, sweep.seed) == (7, 2, 14, "optuna", 5)
    assert plan.arguments(sweep.command, {"training.lr": 3.1e-4, "seed": 6})[-2:] == [
        "debugging.seed=6", "training.lr=0.00031"
    ]  # fmt: skip


def test_each_kind_of_space() -> None:
    sweep = made(
        "tunables.training.gamma={type: uniform, values: [0.9, 0.999]}",
        "tunables.training.minibatch_size={type: randint, values: [16, 64]}",
        "tunables.training.vf_loss_coeff={type: normal, values: [1.0, 0.1]}",
        "tunables.training.use_gae={type: choice, values: [true, false]}",
        "tunables.rl_module.model_config.fcnet_hiddens={type: grid, values: [[64, 64], [256]]}",
        "tunables.env={type: choice, values: [CartPole-v1, Acrobot-v1]}",
    )
    found = {each.name: each for each in sweep.space}
    assert {each.kind for each in sweep.space} == set(plan.KINDS)
    assert found["training.use_gae"].values == (True, False)
    assert found["rl_module.model_config.fcnet_hiddens"].values == ("[64,64]", "[256]")
    assert typical(found["training.minibatch_size"]) == 40
    assert typical(found["training.gamma"]) == pytest.approx(0.9495)
    point = {each.name: each.values[-1] for each in sweep.space}
    settings = read(Source(tuple(plan.arguments((), point))))
    assert settings.config.model_config["fcnet_hiddens"] == [256]
    assert settings.environment.name == "Acrobot-v1"


def test_classes_are_chosen_by_their_names() -> None:
    name = "ray.rllib.callbacks.callbacks:RLlibCallback"
    assert made(f"tunables.callbacks.callbacks_class={{type: grid, values: ['{name}']}}").space[1].values == (name,)


def test_a_grid_alone_is_walked() -> None:
    grids = ("training.gamma={type: grid, values: [0.9, 0.99]}", "env={type: grid, values: [CartPole-v1]}")
    sweep = sweep_of(Source(tuple(f"tunables.{grid}" for grid in grids)))
    assert (sweep.search, sweep.samples) == ("grid", 2)


def test_old_names_of_tunables() -> None:
    sweep = made("tunables.training.num_sgd_iter={type: randint, values: [1, 4]}")
    assert [each.name for each in sweep.space] == ["training.lr", "training.num_epochs"]


@pytest.mark.parametrize(
    ("more", "runners", "cpus"),
    [
        ((), 0, 1),
        (("tune.cpus=4",), 3, 4),
        (("env_runners=auto", "tune.cpus=2"), 1, 2),
        (("env_runners.num_env_runners=2",), 2, 3),
        (("tune.cpus=4", "evaluation.evaluation_interval=1"), 2, 4),
        (("tunables.env_runners.num_env_runners={type: randint, values: [1, 3]}",), None, 4),
    ],
)
def test_what_a_trial_holds(more: tuple[str, ...], runners: int | None, cpus: int) -> None:
    sweep = made(*more)
    assert sweep.resources.cpus == cpus
    told = [word for word in words(sweep) if word.startswith("env_runners")]
    assert told == ([] if runners is None else [f"env_runners.num_env_runners={runners}"])


def test_a_file_with_tunables_serves_both_commands(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "defaults: [lab, _self_]\nenv_runners: auto\ntraining: {gamma: 0.9}\n"
        "tunables: {training: {lr: {type: loguniform, values: [1e-5, 1e-2]}}}\n"
        "tune: {samples: 3, gpus: 0.5, memory: 2G}\n"
    )
    files = {"config_dir": str(tmp_path), "config_name": "mine"}
    sweep = sweep_of(Source((), **files))
    assert (sweep.samples, sweep.resources.gpus, sweep.resources.memory) == (3, 0.5, 2 * 2**30)
    own = words(sweep)
    assert own[:4] == ["--config-dir", str(tmp_path), "--config-name", "mine"]
    trained = read(Source((*plan.arguments(tuple(own[4:]), {"training.lr": 0.003, "seed": 1}),), **files))
    assert (trained.config.lr, trained.config.gamma, trained.config.num_env_runners) == (0.003, 0.9, 0)
    assert "tunables" not in trained.plain
    with pytest.raises(UsageError, match=r"training\.lr: tunable, and without a value: give one, such as training\.lr"):
        read(Source((), **files))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tunables.training.lrr={type: uniform, values: [0, 1]}"], "tunables.training.lrr: group training has no"),
        (["tunables.trainin.lr={type: uniform, values: [0, 1]}"], "tunables.trainin: there is no such group"),
        (["tunabels.training.lr={type: uniform, values: [0, 1]}"], "there is no such group; nearest: tunables"),
        (["tunables.training.lr={type: logunifrm, values: [1, 2]}"], "type logunifrm is none of uniform, loguniform,"),
        (["tunables.training.lr={type: random, values: [1, 2]}"], "random has several meanings"),
        (["tunables.training.lr={type: loguniform, values: [1e-2, 1e-5]}"], "first bound must be below the second"),
        (["tunables.training.lr={type: loguniform, values: [0, 1]}"], "loguniform takes numbers above 0"),
        (["tunables.training.lr={type: normal, values: [0.1, 0]}"], "the deviation must be above 0"),
        (["tunables.training.lr={type: choice, values: []}"], "a space is wanted"),
        (["tunables.training.lr={typ: choice, values: [1]}"], "a space is wanted, such as {type: loguniform"),
        (["tunables.training.lr=3"], "a space is wanted"),
        (["tunables=3"], "tunables=3: it is a group"),
        (["tunables.training.minibatch_size={type: uniform, values: [1, 9]}"], "=5.0: wants int or null (of type"),
        (["tunables.training.use_gae={type: choice, values: [true, maybe]}"], "use_gae='maybe': wants bool or null"),
        (["tunables.debugging.seed={type: choice, values: [1]}"], "tune.repeat=3 gives each point three seeds"),
        (["tunables.run.output={type: choice, values: [a]}"], "it cannot be varied"),
        ([LR, "tune.sampels=3"], "nearest: tune.samples"),
        ([LR, "tune.samples=many"], "tune.samples='many': wants"),
        ([LR, "tune.samples=0"], "tune.samples=0: wants int >= 1"),
        ([LR, "tune.scheduler=pbt"], "tune.scheduler='pbt': wants none or asha or median"),
        ([LR, "tune.search=grid"], "search: grid takes choices alone, not training.lr"),
        ([LR, "tune.metric=mean_retrun"], "wants mean_return or best_return or evaluation_return"),
        ([LR, "tune.scheduler=asha", "tune.repeat=2"], "a scheduler judges single trials"),
        ([LR, "tune.memory=lots"], "tune.memory=lots"),
        ([LR, "tune.name=a/b"], "tune.name=a/b"),
        ([LR, "tune.cpus=1", "env_runners.num_env_runners=3"], "3 env runners and 0 of the evaluation"),
        ([LR, "run.output=out"], "each trial has a directory of its own"),
        ([LR, "checkpoint.every=0"], "checkpoint.every=0: wants int >= 1"),
        ([LR, "learners.num_learners=2"], "a trial learns in one process"),
        ([LR, "training.minibatch_size=9000"], "(tried with training.lr=0.000316"),
        ([], "there are no tunables"),
    ],
)  # fmt: skip
def test_what_is_wrong_ends_with_2_before_ray_starts(words: list[str], said: str) -> None:
    done = CliRunner().invoke(lab, ["tune", *words])
    assert done.exit_code == 2, done.output
    assert said in done.output


def test_values_that_hydra_reads_back() -> None:
    value = {"a": [1, 0.5, None, True], "b": "it's a \\ text, with: signs\\", "c": "auto", "d": "relu"}
    found = read(Source((f"environment.env_config={in_hydra(value)}", "env=tests.unit.lab.test_tune:Anything")))
    assert found.plain["environment"]["env_config"] == value


def Anything(config: dict[str, object]) -> object:  # noqa: N802
    import gymnasium

    return gymnasium.make("CartPole-v1")


def test_a_trial_writes_into_its_directory_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_TRIAL_DIR", str(tmp_path))
    settings = read(Source(()))
    assert (place_of(settings).output, place_of(settings).resume) == (tmp_path / "training", None)
    (tmp_path / "training").mkdir()
    write_checkpoint(tmp_path / "training", Manifest("CartPole-v1", 1, 1, 1.0, []), [], lambda path: Path(path).mkdir())
    assert place_of(settings).resume == ""
    assert str(place_of(read(Source(("run.output=mine",)))).output) == "mine"


def test_the_share_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_share() is None
    monkeypatch.setenv("RAYHPC_TRIAL_CPUS", "2")
    monkeypatch.setenv("RAYHPC_TRIAL_GPUS", "0.5")
    assert own_share() == Share(2, 0.5)
    monkeypatch.setenv("RAYHPC_TRIAL_CPUS", "two")
    with pytest.raises(UsageError, match="RAYHPC_TRIAL_CPUS='two' is not a number"):
        own_share()


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        made()


def test_env_runners_of_a_trial_stay_on_its_host() -> None:
    config = read(Source(("env_runners.custom_resources_per_env_runner={licence: 1}",))).config
    Share(2, 0).keep_here(config)
    assert config.num_cpus_per_env_runner == 0
    licence, host = config.custom_resources_per_env_runner
    assert licence == "licence" and host.startswith("node:")


def test_what_was_found(tmp_path: Path) -> None:
    sweep = made("tunables.training.gamma={type: uniform, values: [0.9, 1.0]}", "tune.samples=4")
    assert run.findings(sweep, tmp_path) == ["no sample of CartPole-v1 has ended with the metric mean_return"]
    for number, reward in enumerate((1.0, 9.0, 3.0, None)):
        values = {"training.lr": 0.001 * (number + 1), "training.gamma": 0.9 + number / 100, "seed": 0}
        trial = Trial(number, f"sample {number}", number, values, tuple(plan.arguments(sweep.command, values)))
        trials.plan_trial(tmp_path, trial)
        result = Result(FAILED, 1) if reward is None else Result(DONE, 0, {"mean_return": reward})
        trials.write_result(trials.directory(tmp_path, trial), result)
    run_directory.write_json(tmp_path / trials.DEFINITION, plan.record(sweep))
    told = CliRunner().invoke(main, ["sweep", "best", tmp_path.name, "--dir", str(tmp_path.parent), "--as-args"])
    assert f"  rayhpc lab train {told.output}" == f"{run.findings(sweep, tmp_path)[1]}\n"
    best, command, table, pictures = run.findings(sweep, tmp_path)
    assert best == "best mean_return: 9"
    assert command == (
        "  rayhpc lab train env_runners.num_env_runners=0 debugging.seed=0 training.lr=0.002 training.gamma=0.91"
    )
    assert table == f"all trials: {tmp_path}/trials.csv"
    assert [Path(name).name for name in pictures.split()[1:]] == ["best-so-far.png", "parallel.png", "importance.png"]
    assert (tmp_path / "importance.png").stat().st_size > 5000


def test_reports_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from rayhpc.rllib.metrics import Row

    monkeypatch.setenv("RAYHPC_TRIAL_METRICS", str(tmp_path / "metrics"))
    row = Row(3, 1200, 20, 4.5, 21.5, 9.0, 40.0, 300.0)
    lab_trial.reporter().tell(SimpleNamespace(rows=[row], evaluations=[]), row, {})  # type: ignore[arg-type]
    told = json.loads((tmp_path / "metrics").read_text())
    assert told == {"step": 3, "timesteps": 1200, "seconds": 4.5, "mean_return": 21.5}




def test_the_file_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text()
    text = re.search(r"```yaml\n# cartpole\.yaml\n(.*?)```", page, re.DOTALL)
    assert text
    (tmp_path / "cartpole.yaml").write_text(text[1])
    sweep = sweep_of(Source((), str(tmp_path), "cartpole"))
    assert (sweep.trials, sweep.search) == (32, "optuna")
    assert [each.name for each in sweep.space] == [
        "training.lr", "training.num_epochs", "rl_module.model_config.fcnet_hiddens"
    ]  # fmt: skip
    typed = re.search(r"rayhpc lab tune (env=CartPole-v1 .*)", page)
    assert typed and sweep_of(Source(tuple(shlex.split(typed[1])))).samples == 8
