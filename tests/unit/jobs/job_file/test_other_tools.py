"""What other tools' job files have: understood with a hint, or refused with the name of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayhpc.errors import RayhpcError
from rayhpc.jobs.job_file import load as jobfile
from rayhpc.jobs.job_file import old_names
from rayhpc.jobs.job_file.load import Said
from rayhpc.jobs.request import JobRequest

LAB = """\
python_script: train.py
script_args: [--task, reach]
workdir: .
env_file: secrets/lab.env
user_id: grace
py_executable: /opt/lab/bin/python -X dev
excludes: ['*.ckpt', .git/]
file_mounts:
  lib: {to: /tmp/lib, install: true}
  tool: {install: true}
  data: /tmp/data
setup: module load cuda
env_vars: {HF_TOKEN: '${HF_TOKEN}', MODE: fast}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("lib", "tool", "data", "secrets", "plain"):
        (tmp_path / name).mkdir()
    (tmp_path / "lib" / "pyproject.toml").touch()
    (tmp_path / "tool" / "setup.py").touch()
    (tmp_path / "train.py").touch()
    (tmp_path / "secrets" / "lab.env").write_text("HF_TOKEN=s3cret\n")
    return tmp_path


def load(folder: Path, text: str, *arguments: str) -> JobRequest:
    (folder / "job.yaml").write_text(text)
    return jobfile.load(folder / "job.yaml", Said({}, arguments=arguments))


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(RayhpcError) as caught:
        load(folder, text)
    return [line.removeprefix(f"{folder}/job.yaml:") for line in caught.value.fault.evidence]


def test_a_file_of_another_tool(folder: Path) -> None:
    assert load(folder, LAB, "--seed", "7") == JobRequest(
        entrypoint="/opt/lab/bin/python -X dev ./train.py --task reach --seed 7",
        environment={"HF_TOKEN": "s3cret", "MODE": "fast"},
        working_dir=str(folder),
        mounts=((f"{folder}/lib", "/tmp/lib"), (f"{folder}/data", "/tmp/data")),
        init=("module load cuda",),
        secrets=("HF_TOKEN",),
        packages=(f"{folder}/lib", f"{folder}/tool"),
        excludes=("*.ckpt", ".git/"),
        py_executable="/opt/lab/bin/python -X dev",
        user="grace",
        hints=(
            "line 1: python_script is called script here",
            "line 2: script_args is called args here",
            "line 3: workdir is called working_dir here",
            "line 12: setup is called init_commands here",
            "line 13: env_vars is called environment here",
        ),
    )


@pytest.mark.parametrize("name", old_names.REFUSED)
def test_what_has_not_one_meaning_is_refused_with_the_name_of_ours(folder: Path, name: str) -> None:
    assert problems(folder, f"command: a\n{name}: 1\n") == [f"2: {name} is none of our keys: {old_names.REFUSED[name]}"]


def test_no_name_of_theirs_is_one_of_ours() -> None:
    assert not {*old_names.RENAMED, *old_names.REFUSED} & set(jobfile._READERS)
    assert not set(old_names.RENAMED) & set(old_names.REFUSED)
    assert set(old_names.RENAMED.values()) <= set(jobfile._READERS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("script: train.py\npython_script: train.py\n", "2: python_script and script say the same thing: give one"),
        ("command: a\nfile_mounts: {plain: {install: true}}\n", "plain' is no package to install: it has no pyproject"),
        ("command: a\nfile_mounts: {lib: {install: maybe}}\n", "2: install must be true or false, not 'maybe'"),
        ("command: a\nfile_mounts: {lib: {}}\n", "2: 'lib' needs a place: to: /tmp/x, or install: true"),
        ("command: a\nfile_mounts: {lib: {form: /tmp/x}}\n", "2: unknown key form: known are to, install"),
        ("command: a\nfile_mounts: {lib: {to: tmp, install: true}}\n", "2: the remote path 'tmp' must begin with / or"),
        ("command: a\nexcludes: ['*', '!a']\n", "2: excludes: nothing is taken in again with !"),
    ],
)
def test_what_is_wrong(folder: Path, text: str, expected: str) -> None:
    assert any(expected in line for line in problems(folder, text)), problems(folder, text)


def test_the_env_file_that_is_named_is_the_only_one(folder: Path) -> None:
    (folder / ".env").write_text("OTHER=1\n")
    (folder / "third").write_text("HF_TOKEN=third\n")
    assert problems(folder, "command: a\nenv_file: secrets/lab.env\nenvironment: {A: '${OTHER}'}\n") == [
        "3: OTHER is not set"
    ]
    with pytest.raises(RayhpcError, match=r"gone\.env cannot be read: No such file"):
        load(folder, "command: a\nenv_file: gone.env\n")
    (folder / "job.yaml").write_text("command: a\nenv_file: gone.env\nenvironment: {A: '${HF_TOKEN}'}\n")
    made = jobfile.load(folder / "job.yaml", Said({}, folder / "third"))
    assert (made.environment, made.secrets) == ({"A": "third"}, ("A",))
