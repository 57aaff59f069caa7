"""sweep.yaml: what is understood, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.sweep.load import calculate, load
from rayhpc.sweep.plan import Parameter, Reader, Resources, Sweep, arguments, from_record, record

WHOLE = """
name: lr-search
command: [python, train.py, "--lr={lr}"]
space:
  lr: {type: loguniform, values: [1e-5, 1e-2]}
  layers: {type: randint, values: [1, 4]}
  activation: {type: choice, values: [tanh, relu, null, true]}
metric: reward
mode: max
samples: 20
repeat: 2
search: optuna
resources: {cpus: 2, gpus: 0.5, memory: 10*1024**3}
processes: 2
nodes: all different
stall: 600
max_failures: 1
reader: {kind: csv, path: progress.csv}
env: {WANDB_MODE: offline, KEY: "${KEY}"}
env_file: secrets.env
pip: [cowsay==6.1]
seed: 7
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(text)
    return file


def problems(folder: Path, text: str) -> str:
    with pytest.raises(RayhpcError) as caught:
        load(written(folder, text), {})
    assert caught.value.fault.code is ExitCode.CONFIGURATION
    return "\n".join(caught.value.fault.evidence)


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("KEY=hunter2\n")
    found = load(written(tmp_path, WHOLE), {})
    assert found == Sweep(
        name="lr-search",
        directory=str(tmp_path),
        command=("python", "train.py", "--lr={lr}"),
        space=(
            Parameter("lr", "loguniform", (1e-5, 1e-2)),
            Parameter("layers", "randint", (1, 4)),
            Parameter("activation", "choice", ("tanh", "relu", None, True)),
        ),
        metric="reward",
        samples=20,
        repeat=2,
        search="optuna",
        resources=Resources(2, 0.5, 10 * 1024**3),
        processes=2,
        nodes="all different",
        stall=600,
        max_failures=1,
        reader=Reader("csv", "progress.csv"),
        environment={"WANDB_MODE": "offline", "KEY": "hunter2"},
        pip=("cowsay==6.1",),
        seed=7,
    )
    assert found.trials == 40
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(record(found))
    assert from_record(record(found)) == Sweep(**{**vars(found), "environment": {}})


def test_tasks(tmp_path: Path) -> None:
    found = load(written(tmp_path, "tasks: {reach: python reach.py --seed 1, push: [./push, a b]}"), {})
    assert found.name == "sweep"
    assert found.tasks == {"reach": ("python", "reach.py", "--seed", "1"), "push": ("./push", "a b")}
    assert found.trials == 2


def test_a_grid_has_as_many_samples_as_points(tmp_path: Path) -> None:
    text = """
command: [x]
space: {a: {type: grid, values: [1, 2, 3]}, b: {type: choice, values: [x, y]}}
search: grid
"""
    found = load(written(tmp_path, text), {})
    assert found.samples == 6
    assert found.grid()[1] == {"a": 1, "b": "y"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("command: [x]\nsampels: 3", "sweep.yaml:2: unknown key sampels: is it samples?"),
        ("command: [x]\nsamples: 0", ":2: samples must be a whole number from 1 on, not 0"),
        ("command: [x]\nsamples: 2.5", ":2: samples must be a whole number from 1 on, not 2.5"),
        ("command: [x]\nmode: up", ":2: mode must be one of max, min, not 'up'"),
        ("command: [x]\nspace: {lr: {type: loguniform, values: [0, 1]}}", "lr: loguniform takes numbers above 0"),
        ("command: [x]\nspace: {lr: {type: uniform, values: [2, 1]}}", "lr: the first bound must be below the second"),
        ("command: [x]\nspace: {lr: {type: uniform, values: [a, b]}}", "lr: uniform takes two numbers"),
        ("command: [x]\nspace: {lr: {type: randint, values: [1, 2.5]}}", "lr: randint takes whole numbers"),
        ("command: [x]\nspace: {lr: {type: normal, values: [1, 0]}}", "lr: the deviation must be above 0"),
        ("command: [x]\nspace: {lr: {values: [1, 2]}}", "lr needs type and values"),
        ("command: [x]\nspace: {lr: {type: gauss, values: [1, 2]}}", "type must be one of uniform"),
        ("command: [x]\nresources: {cpus: __import__('os')}", "cpus: only numbers and + - * / // ** are understood"),
        ("command: [x]\nresources: {memory: 9**9**9}", "memory"),
        ("samples: 1", ":1: neither command nor tasks says what to run"),
        ("command: [x]\ntasks: {a: b}", "command and tasks say the same thing"),
        ("command: [x]\nsearch: optuna", "metric is missing"),
        ("command: x\nsearch: grid\nspace: {lr: {type: uniform, values: [0, 1]}}", "grid takes choices alone, not lr"),
        ("command: 'a \"b'", ":1: command: No closing quotation"),
        ("name: a/b\ncommand: x", "name must be a name of at most 64"),
        ("command: [x", "broken YAML"),
        ("command: x\nenv_file: no.env", "no.env"),
        ("command: x\npy_modules: [nowhere, 's3://bucket/there.zip']", ":2: an entry of py_modules: there is no /"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RayhpcError) as caught:
        load(written(tmp_path, text), {})
    assert told in caught.value.fault.what + "\n".join(caught.value.fault.evidence)


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    assert problems(tmp_path, "command: [x]\nmode: up\nsamples: 0\nnodes: few").count("sweep.yaml:") == 3


def test_a_secret_stays_out_of_the_command(tmp_path: Path) -> None:
    (tmp_path / ".e").write_text("KEY=hunter2\n")
    told = problems(tmp_path, 'env_file: .e\ncommand: [x, "${KEY}"]')
    assert "a secret" in told and "hunter2" not in told


@pytest.mark.parametrize(
    ("text", "value"), [("10*1024**3", 10 * 1024**3), ("7", 7), ("(1+2)*0.5", 1.5), ("9//2", 4), ("2**0.5", 2**0.5)]
)
def test_arithmetic(text: str, value: float) -> None:
    assert calculate(text) == value


@pytest.mark.parametrize("text", ["", "a", "1/0", "9**9**9", "f(1)", "'a'*9", "True", "(" * 500, "10**400", "~1"])
def test_what_is_no_arithmetic(text: str) -> None:
    with pytest.raises(ValueError):
        calculate(text)


@pytest.mark.parametrize(
    ("command", "values", "argv"),
    [
        (("a", "--lr={lr}"), {"lr": 1e-05}, ["a", "--lr=1e-05"]),
        (("a",), {"lr": 0.1, "net.size": 3}, ["a", "lr=0.1", "net.size=3"]),
        (("a", "{x}"), {"x": True, "y": None}, ["a", "true", "y=null"]),
        (("a", "{x} {x}", "{other}"), {"x": "p q"}, ["a", "p q p q", "{other}"]),
    ],
)
def test_the_command_of_a_trial(command: tuple[str, ...], values: dict[str, object], argv: list[str]) -> None:
    assert arguments(command, values) == argv


def test_a_secret_of_the_shell_by_its_name(tmp_path: Path) -> None:
    """It may stand in env, and no record has that; not_secret makes an exception."""
    file = tmp_path / "sweep.yaml"
    environ = {"HF_TOKEN": "hunter2-exported"}
    file.write_text("command: [train, '${HF_TOKEN}']\n")
    with pytest.raises(RayhpcError) as caught:
        load(file, environ)
    assert "holds HF_TOKEN, a secret: only `env` takes it; else: not_secret" in caught.value.fault.evidence[0]
    file.write_text("command: [train, '${HF_TOKEN}']\nnot_secret: [HF_TOKEN]\n")
    assert load(file, environ).command == ("train", "hunter2-exported")
    file.write_text("command: train\nenv: {HF_TOKEN: '${HF_TOKEN}'}\n")
    found = load(file, environ)
    assert found.environment == environ
    assert "hunter2" not in repr(found) + str(record(found))
