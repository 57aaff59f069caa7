"""The workbench on real Ray nodes: trained from a configuration, stopped, gone on with, viewed on one."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.launch import REPOSITORY, Job, Jobs, launched_in, until

pytestmark = pytest.mark.cluster

TRAIN = ("-m", "rayhpc.lab", "train", "run.output=out", "run.resume=true")
SMALL = (
    "training.train_batch_size_per_learner=400", "training.minibatch_size=100", "training.num_epochs=2",
    "checkpoint.every=1",
)  # fmt: skip


MULTI_AGENT = "ray.rllib.examples.envs.classes.multi_agent:MultiAgentCartPole"


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "out" / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def ended(job: Job, code: int) -> str:
    assert job.wait(150) == code, job.output()
    return job.output()


def test_trained_stopped_gone_on_with_and_viewed(jobs: Jobs) -> None:
    from PIL import Image, ImageChops

    job = jobs.start(*TRAIN, "algo=ppo", "env=CartPole-v1", *SMALL, "stop.iterations=50", ranks=4)
    job.until(r"\n +2  ", 120)
    os.kill(job.process.pid, signal.SIGUSR1)
    ended(job, 75)
    before = len(rows(job.directory))
    more = ["run.video=every 1", "evaluation.evaluation_interval=1", "evaluation.evaluation_duration=3"]
    last = [*TRAIN, "algo=ppo", "env=CartPole-v1", *SMALL, f"stop.iterations={before + 1}", *more]
    said = ended(jobs.start(*last, ranks=4), 0)
    found = rows(job.directory)
    assert [int(row["iteration"]) for row in found] == list(range(1, before + 2))
    assert {"config.yaml", "result.json", "learning-curve.png", "tensorboard"} <= set(os.listdir(job.directory / "out"))
    assert json.loads((job.directory / "out" / "result.json").read_text())["iterations"] == before + 1
    (filmed,) = (job.directory / "out" / "videos").iterdir()
    assert filmed.name == f"iteration-{before + 1:06d}.gif"
    with Image.open(filmed) as film:
        assert f"episode 1: return {film.n_frames:.1f}, {film.n_frames} steps" in said
    (evaluation,) = csv.DictReader((job.directory / "out" / "evaluation.csv").open())
    assert (int(evaluation["iteration"]), int(evaluation["episodes"])) == (before + 1, 3)
    assert float(evaluation["return_margin"]) >= 0
    view = [jobs.mpi.python, "-m", "rayhpc.lab", "view", "out", "--episodes", "2", "--out", "film.gif"]
    env = {name: value for name, value in jobs.mpi.environment.items() if name != "DISPLAY"}
    done = subprocess.run(view, cwd=job.directory, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    steps = sum(int(line.split(", ")[1].split()[0]) for line in done.stdout.splitlines() if line.startswith("episode"))
    with Image.open(job.directory / "film.gif") as film:
        assert film.n_frames == steps
        film.seek(0)
        first = film.convert("RGB")
        film.seek(film.n_frames - 1)
        assert ImageChops.difference(first, film.convert("RGB")).getbbox() is not None


@pytest.mark.parametrize(
    "words",
    [
        ("algo=dqn", "env=CartPole-v1", "training.num_steps_sampled_before_learning_starts=50"),
        ("algo=sac", "env=Pendulum-v1", "training.num_steps_sampled_before_learning_starts=50"),
        ("algo=ppo", f"env={{name: {MULTI_AGENT}, config: {{num_agents: 2}}}}"),
    ],
    ids=["DQN", "SAC", "multi-agent"],
)
def test_other_algorithms_train_from_configuration_alone(jobs: Jobs, words: tuple[str, ...]) -> None:
    own = SMALL if "algo=ppo" in words else ("checkpoint.every=1",)
    job = jobs.start(*TRAIN, *words, *own, "stop.iterations=2", "stop.mean_return=1e9", ranks=2)
    ended(job, 0)
    assert len(rows(job.directory)) == 2


def test_a_wrong_key_ends_with_2_before_ray_works(jobs: Jobs) -> None:
    job = jobs.start("-m", "rayhpc.lab", "train", "training.lrr=1", ranks=2)
    assert "nearest: training.lr" in ended(job, 2)


def test_the_tutorial(jobs: Jobs) -> None:
    """docs/own-environment.md: its files, and every one of its commands, in an empty folder."""
    from PIL import Image

    text = (REPOSITORY / "docs" / "own-environment.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL))
    commands = re.findall(r"```\n(.*?)```", re.sub(r"```(python|yaml).*?```", "", text, flags=re.DOTALL), re.DOTALL)
    (jobs.directory / "my_env.py").write_text(blocks["python"])
    (jobs.directory / "room.yaml").write_text(blocks["yaml"])
    said = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=jobs.directory, env=jobs.mpi.environment, capture_output=True, text=True,
            timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"
        said.append(done.stdout)
    config, explained, alone, on_four, viewed, submitted = said
    assert "env: my_env.py" in config
    assert explained.startswith("training.lr\nwants: ")
    assert "ended (return) after" in alone
    assert "ended (return) after" in on_four
    assert "3 on 3 of 4 Ray nodes" in on_four
    steps = sum(int(number) for number in re.findall(r"episode \d: return [-.\d]+, (\d+) steps", viewed))
    with Image.open(jobs.directory / "room.gif") as film:
        assert film.n_frames == steps
    assert "set -- -m rayhpc.lab train --config-dir=. --config-name=room run.output=room-slurm" in submitted


TUNE = (
    "-m", "rayhpc.lab", "tune", "tunables.training.lr={type: loguniform, values: [1e-4, 1e-2]}", "tune.name=search",
    "training.train_batch_size_per_learner=400", "training.minibatch_size=100", "training.num_epochs=2",
    "stop.iterations=2", "tune.samples=4", "logger.tensorboard=false",
)  # fmt: skip


def trials(directory: Path) -> dict[str, str]:
    """What each trial has printed that has ended."""
    found = sorted(directory.glob("rayhpc-sweeps/search/trials/*/result.json"))
    return {file.parent.name: (file.parent / "output.log").read_text() for file in found}


def test_tuned_killed_gone_on_with_and_reproduced(jobs: Jobs) -> None:
    job = jobs.start(*TUNE, ranks=2)
    directory = job.directory
    assert until(lambda: bool(trials(directory)), 150), job.output()
    os.kill(job.process.pid, signal.SIGKILL)
    job.wait(30)
    jobs.close()
    programs = re.compile(r"rayhpc\.lab train")
    assert until(lambda: not any(programs.search(line) for _, line in launched_in(directory)), 20), "trials outlive it"
    before = trials(directory)
    assert 1 <= len(before) < 4
    told = ended(jobs.start(*TUNE, "--resume", ranks=2), 0)
    after = trials(directory)
    assert sorted(after) == ["0000", "0001", "0002", "0003"]
    assert all(after[number] == before[number] for number in before), "a trial that had ended has run again"
    assert len((directory / "rayhpc-sweeps/search/trials.csv").read_text().splitlines()) == 5
    best = re.search(r"best mean_return: (\S+)\n  rayhpc lab train .*debugging.seed=0.*\n", told)
    assert best, told
    assert all((directory / "rayhpc-sweeps/search" / name).exists() for name in ("best-so-far.png", "parallel.png"))
    again = "rayhpc sweep best search --as-args | xargs rayhpc lab train run.output=out"
    done = subprocess.run(
        ["bash", "-c", again], cwd=directory, env=jobs.mpi.environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((directory / "out" / "config.yaml").read_text())["env_runners"] == {"num_env_runners": 0}
    assert float(rows(directory)[-1]["return_mean"]) == pytest.approx(float(best[1]), abs=1e-3)


def test_a_trial_that_no_node_can_hold_is_refused_on_a_laptop_too(jobs: Jobs) -> None:
    job = jobs.start_raw(jobs.mpi.python, *TUNE, "tune.gpus=8")
    assert "no room for 1 process with 1 CPU, 8 GPU each" in ended(job, 78)
    assert not (job.directory / "rayhpc-sweeps/search/trials/0000").exists()
