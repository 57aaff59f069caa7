"""The shell's lines of a job, run by real shells: mounts, secrets, init commands, and every end that a job may have."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.jobs.bundle import pack
from rayhpc.jobs.bundle.script import BUNDLE, runtime_env, script
from rayhpc.jobs.request import JobRequest
from tests.launch import until
from tests.unit.making import HOSTILE

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    """What /bin/sh may be."""
    return {"busybox": ["busybox", "sh"]}.get(request.param, [request.param])


@contextmanager
def started(shell: list[str], request: JobRequest, place: Path) -> Iterator[subprocess.Popen[str]]:
    """The job's shell as Ray's supervisor starts it, with the unpacked bundle on PYTHONPATH."""
    with pack.packed(request) as packed:
        if packed:
            shutil.copytree(packed, place / "py modules" / BUNDLE)
    environment = {
        **os.environ,
        **runtime_env(request, packed).get("env_vars", {}),
        "PYTHONPATH": f"/elsewhere:{place}/py modules:/*",
        "HOME": str(place / "home"),
    }
    (place / "home").mkdir()
    job = subprocess.Popen(
        [*shell, "-c", script(request)], env=environment, cwd=place, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield job
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        assert job.stdout
        job.stdout.close()


def ran(shell: list[str], request: JobRequest, place: Path) -> tuple[int, str]:
    with started(shell, request, place) as job:
        output, _ = job.communicate(timeout=60)
        return job.returncode, output


def sources(tmp_path: Path) -> tuple[Path, Path]:
    """A file that may be executed, and a directory with a hidden file, a link and an empty directory."""
    file, directory = tmp_path / "file", tmp_path / "directory"
    file.write_text("#!/bin/sh\necho ran\n")
    file.chmod(0o755)
    (directory / "empty").mkdir(parents=True)
    (directory / ".git").write_text("hidden")
    (directory / "link").symlink_to(".git")
    return file, directory


def mounting(tmp_path: Path, entrypoint: str, *places: str, **more: Any) -> JobRequest:
    return JobRequest(entrypoint, mounts=tuple(zip(map(str, sources(tmp_path)), places, strict=False)), **more)


def test_a_plain_job_is_its_command() -> None:
    request = JobRequest("a; b", environment={"A": "1"})
    assert script(request) == "a; b"
    assert runtime_env(request, "") == {"env_vars": {"A": "1"}}
    with pack.packed(request) as packed:
        assert packed == ""


def test_directory_and_init_commands_come_first(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "two words").mkdir()
    request = JobRequest(
        'echo "$A $PWD"; false; echo after',
        working_dir=str(tmp_path / "two words"),
        init=("export A=set  # so", "true"),
    )
    assert ran(shell, request, tmp_path) == (0, f"set {tmp_path}/two words\nafter\n")


def test_hostile_arguments_and_directories_arrive(shell: list[str], tmp_path: Path) -> None:
    start = tmp_path / "a'; echo foo $HOME\n b"
    start.mkdir()
    show = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]]))"
    words = [sys.executable, "-c", show, *HOSTILE, ""]
    code, output = ran(shell, JobRequest(shlex.join(words), working_dir=str(start)), tmp_path)
    assert (code, json.loads(output)) == (0, [str(start), [*HOSTILE, ""]])


@pytest.mark.parametrize("directory", ["~", "~/", "~/."])
def test_the_home_directory_is_the_cluster_s(shell: list[str], tmp_path: Path, directory: str) -> None:
    assert ran(shell, JobRequest("pwd", working_dir=directory), tmp_path) == (0, f"{tmp_path}/home\n")


def test_the_first_init_command_that_fails_ends_the_job(shell: list[str], tmp_path: Path) -> None:
    request = JobRequest("echo never", init=("echo one", "(exit 5)", "echo two"))
    assert ran(shell, request, tmp_path) == (5, "one\n")


def test_a_missing_directory_ends_the_job(shell: list[str], tmp_path: Path) -> None:
    code, output = ran(shell, JobRequest("echo never", working_dir="/no/where"), tmp_path)
    assert code
    assert "never" not in output
    assert "/no/where" in output


def test_mounts_are_there_and_then_gone(shell: list[str], tmp_path: Path) -> None:
    places = (str(tmp_path / "a b"), "~/dir")
    look = f"'{places[0]}'; cat ~/dir/link; ls -A ~/dir; exit 3"
    code, output = ran(shell, mounting(tmp_path, look, *places, init=("cat ~/dir/.git",)), tmp_path)
    assert (code, output.split()) == (3, ["hiddenran", "hidden.git", "empty", "link"])
    assert not (tmp_path / "a b").exists()
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "py modules" / BUNDLE).glob("mounts-*")) == []


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\n" not in name])
def test_hostile_places(tmp_path: Path, name: str) -> None:
    request = mounting(tmp_path, "ls -A", str(tmp_path / "in" / name), working_dir=str(tmp_path / "in"))
    (tmp_path / "in").mkdir()
    environment = {"LC_ALL": "C.UTF-8"}
    request = JobRequest(**{**request.__dict__, "environment": environment})
    code, output = ran(["dash"] if "dash" in SHELLS else ["bash"], request, tmp_path)
    assert (code, output) == (0, f"{name}\n")
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_nothing_is_overwritten(shell: list[str], tmp_path: Path, kind: str) -> None:
    """Neither a file, nor a directory, nor a link to nowhere; what was put there before is taken back."""
    taken = tmp_path / "taken"
    {"file": lambda: taken.write_text("mine"), "directory": taken.mkdir, "link": lambda: taken.symlink_to("gone")}[
        kind
    ]()
    code, output = ran(shell, mounting(tmp_path, "echo never", str(tmp_path / "first"), str(taken)), tmp_path)
    assert code == ExitCode.CONFIGURATION
    assert f"rayhpc: the file mount {taken} cannot be put into its place on " in output
    assert output.rstrip().endswith("it exists already")
    assert os.path.lexists(taken)
    assert kind != "file" or taken.read_text() == "mine"
    assert not (tmp_path / "first").exists()


def test_no_directory_is_made(shell: list[str], tmp_path: Path) -> None:
    code, output = ran(shell, mounting(tmp_path, "echo never", str(tmp_path / "no" / "where")), tmp_path)
    assert code == ExitCode.CONFIGURATION
    assert output.rstrip().endswith(f": {tmp_path}/no is no directory")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_takes_the_mounts_back(shell: list[str], tmp_path: Path, signum: int) -> None:
    """As Ray stops a job: the signal goes to the shell and all its children."""
    place = tmp_path / "place"
    with started(shell, mounting(tmp_path, "sh -c 'echo up; exec sleep 100'", str(place)), tmp_path) as job:
        assert job.stdout
        assert job.stdout.readline() == "up\n"
        assert place.exists()
        os.killpg(job.pid, signum)
        assert job.wait(20) in (128 + signum, -signum)
        assert not place.exists()


def test_a_job_that_is_killed_leaves_no_mounts(shell: list[str], tmp_path: Path) -> None:
    """Ray does so 3 s after a stop. What others have put there since, stays: only noted places are taken back."""
    place, other = tmp_path / "place", tmp_path / "other"
    with started(shell, mounting(tmp_path, "echo up; exec sleep 100", str(place), str(other)), tmp_path) as job:
        assert job.stdout
        assert job.stdout.readline() == "up\n"
        (tmp_path / "py modules" / BUNDLE / next(iter(_notes(tmp_path))) / "2").unlink()
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        assert until(lambda: not place.exists(), 20)
        assert until(lambda: not _notes(tmp_path), 20)
        assert other.exists()


def _notes(place: Path) -> list[str]:
    return [path.name for path in (place / "py modules" / BUNDLE).glob("mounts-*")]


def test_secrets_reach_the_job_and_nothing_else(shell: list[str], tmp_path: Path) -> None:
    secrets = {f"S{place}": value for place, value in enumerate(HOSTILE)}
    dump = f"'{sys.executable}' -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    request = JobRequest(dump, environment={**secrets, "OPEN": "seen"}, secrets=tuple(secrets))
    code, output = ran(shell, request, tmp_path)
    assert code == 0
    assert {name: json.loads(output)[name] for name in (*secrets, "OPEN")} == {**secrets, "OPEN": "seen"}
    told = script(request) + json.dumps(runtime_env(request, "/x"), ensure_ascii=False)
    assert [value for value in HOSTILE if value in told] == []
    assert runtime_env(request, "/x") == {
        "env_vars": {"OPEN": "seen"}, "py_modules": ["/x"], "worker_process_setup_hook": "rayhpc_job.prepare",
    }  # fmt: skip


def test_the_hook_of_other_processes(tmp_path: Path) -> None:
    secrets = dict(zip("ABCDEFGH", HOSTILE, strict=True))
    look = "import rayhpc_job, os, json; rayhpc_job.prepare(); print(json.dumps(dict(os.environ)))"
    with pack.packed(JobRequest("x", environment=secrets, secrets=tuple(secrets))) as packed:
        assert Path(packed).parent.stat().st_mode & 0o77 == 0
        environment = {"PYTHONPATH": str(Path(packed).parent)}
        done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert {name: json.loads(done.stdout)[name] for name in secrets} == secrets
    assert not Path(packed).parent.exists()


def test_what_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", pack.LIMIT)
    request = JobRequest("x", mounts=((str(tmp_path), "/tmp/x"),))
    with pytest.raises(RayhpcError, match="the file mounts are 100 MiB: Ray's job API takes 100 MiB at once") as caught:
        pack.check(request)
    assert caught.value.fault.evidence == (f"100 MiB  {tmp_path}",)
    os.truncate(tmp_path / "large", pack.LIMIT - 2**21)
    pack.check(request)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RayhpcError, match="gone is not there: No such file"):
        pack.check(JobRequest("x", mounts=((str(tmp_path / "gone"), "/tmp/x"),)))
