"""The script of a job, run by a real sh as Ray runs it: in the directory of the files that were sent along."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from rayhpc.jobs.script import SECRETS, member, script, secrets
from rayhpc.model import JobRequest

from .making import HOSTILE

SHOW = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]]))"


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    directory = tmp_path / "sent"
    directory.mkdir()
    return directory


def run(request: JobRequest, sent: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    if request.secrets:
        (sent / SECRETS).write_text(secrets(request))
    return subprocess.run(
        script(request), shell=True, cwd=sent, env={"PATH": "/usr/bin:/bin", **environ}, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_hostile_arguments_and_directories_arrive(sent: Path, tmp_path: Path) -> None:
    start = tmp_path / "a'; echo foo $HOME\n b"
    start.mkdir()
    words = [sys.executable, "-c", SHOW, *HOSTILE, ""]
    done = run(JobRequest(shlex.join(words), working_dir=str(start)), sent)
    assert json.loads(done.stdout) == [str(start), [*HOSTILE, ""]]


@pytest.mark.parametrize(
    ("request_", "code", "output"),
    [
        (JobRequest("exit 7"), 7, ""),
        (JobRequest("echo ran", working_dir="/no such"), 2, ""),
        (JobRequest("echo ran", init=("echo first", "exit 3", "echo never")), 3, "first\n"),
        (JobRequest("echo ran", init=("echo first", "false")), 1, "first\n"),
        (JobRequest("echo $A", init=("A=set  # with a comment",)), 0, "set\n"),
        (JobRequest("pwd", working_dir="~/"), 0, "/usr\n"),
    ],
)
def test_the_first_step_that_fails_is_the_end(request_: JobRequest, code: int, output: str, sent: Path) -> None:
    done = run(request_, sent, HOME="/usr")
    assert (done.returncode, done.stdout) == (code, output)


def test_secrets_are_in_the_environment_and_not_in_the_script(sent: Path) -> None:
    values = {f"V{number}": value for number, value in enumerate(HOSTILE)}
    command = shlex.join([sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"])
    request = JobRequest(command, environment={"OPEN": "1", **values}, secrets=tuple(values))
    assert not [value for value in values.values() if value in script(request)]
    assert json.loads(run(request, sent).stdout).items() >= values.items()


def mounted(sent: Path, *remotes: str) -> tuple[tuple[str, str], ...]:
    """Archives as the submission makes them, of a directory each."""
    source = sent.parent / "source"
    source.mkdir()
    (source / "x").write_text("content")
    (source / "x").chmod(0o755)
    (source / "link").symlink_to("x")
    for number, remote in enumerate(remotes):
        with tarfile.open(sent / member(number), "w") as archive:
            archive.add(source, arcname=Path(remote).name)
    return tuple((str(source), remote) for remote in remotes)


def test_mounts_are_there_for_the_job_and_gone_after_it(sent: Path, tmp_path: Path) -> None:
    remotes = (f"{tmp_path}/new folder/it's", "beside", "~/home")
    mounts = mounted(sent, *remotes)
    start, home = tmp_path / "start", tmp_path / "house"
    start.mkdir()
    home.mkdir()
    places = [Path(remotes[0]), start / "beside", home / "home"]
    command = f'for f in {shlex.join(map(str, places))}; do cat "$f/link" && test -x "$f/x" || exit 9; done; exit 5'
    request = JobRequest(command, mounts=mounts, working_dir=str(start), init=("cd /",))
    done = run(request, sent, HOME=str(home))
    assert (done.returncode, done.stdout) == (5, "content" * 3), done.stderr
    assert not [place for place in places if place.exists()]


def test_what_is_there_already_is_neither_replaced_nor_removed(sent: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    mounts = mounted(sent, f"{tmp_path}/first", f"{tmp_path}/mine")
    done = run(JobRequest("echo ran", mounts=mounts), sent)
    assert (done.returncode, done.stdout) == (78, "")
    assert "mine is there already" in done.stderr
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "first").exists()


def test_mounts_are_removed_when_the_job_is_stopped(sent: Path, tmp_path: Path) -> None:
    """Ray sends SIGTERM to the shell and to all below it."""
    place = tmp_path / "place"
    command = f"test -e {place} && kill -TERM $$; sleep 0.1; echo not reached"
    done = run(JobRequest(command, mounts=mounted(sent, str(place))), sent)
    assert (done.returncode, done.stdout) == (143, "")
    assert not place.exists()
