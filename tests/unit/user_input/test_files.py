"""What is no file, or too large, is an error at once, wherever a user names one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rayhpc.cli.main import main
from rayhpc.jobs.bundle import pack
from rayhpc.ranks.rendezvous import secret_file
from rayhpc.user_input import files

KINDS = {"/dev/zero": "it is a device, no file", "fifo": "it is a FIFO, no file", "large": "it is 257 KiB, and such"}


def made(kind: str, folder: Path, name: str = "") -> Path:
    if kind == "/dev/zero":
        (folder / (name or "zero")).symlink_to(kind)
        return folder / (name or "zero")
    file = folder / (name or kind)
    if kind == "fifo":
        os.mkfifo(file, 0o600)
    else:
        file.write_text("a\n")
        os.truncate(file, files.LIMIT + 1)
    return file


WORDS: dict[str, list[str]] = {
    "job.yaml": ["job", "submit", "--dry-run", "--config", "FILE"],
    ".env": ["job", "submit", "--dry-run", "--config", "job.yaml", "--env-file", "FILE"],
    "addresses": ["job", "list", "--address-file", "FILE"],
    "token": ["job", "list", "--address", "http://127.0.0.1:9", "--token-file", "FILE"],
    "sweep.yaml": ["sweep", "run", "FILE"],
    "sweep's .env": ["sweep", "run", "sweep.yaml"],
    "base.yaml": ["kube", "manifest", "--image", "rayproject/ray:2.60.0", "-f", "FILE"],
    "lab": ["lab", "config", "-cd", "lab", "-cn", "own"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "lab").mkdir()
    (tmp_path / "job.yaml").write_text("command: a\n")
    (tmp_path / "sweep.yaml").write_text("command: a\nenv_file: env\n")
    return tmp_path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", WORDS)
def test_a_command_ends_at_once(place: str, kind: str, folder: Path) -> None:
    name = {"sweep's .env": "env", "lab": "lab/own.yaml"}.get(place, "")
    file = made(kind, folder, name)
    done = CliRunner().invoke(main, [str(file) if word == "FILE" else word for word in WORDS[place]])
    assert done.exit_code in (2, 78), done.output
    assert KINDS[kind] in done.output


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["/dev/zero", "fifo"])
def test_a_jobscript(kind: str, folder: Path) -> None:
    words = ["alloc", "submit", "slurm", "--dry-run", "--script", str(made(kind, folder)), "--", "train.py"]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, KINDS[kind] in done.output) == (78, True), done.output


@pytest.mark.timeout(60)
def test_the_secret_of_a_rendezvous(folder: Path) -> None:
    with pytest.raises(Exception, match="cannot be trusted: it is a FIFO"):
        secret_file.read(made("fifo", folder))


def test_an_endless_file_of_no_size(folder: Path) -> None:
    """What /proc holds has no size until it is read."""
    assert b"Name:" in files.read_bytes(Path("/proc/self/status"))
    with pytest.raises(OSError, match="it is endless, and such a file has at most 1 KiB"):
        files.read_bytes(Path("/proc/self/status"), 2**9)


@pytest.mark.timeout(60)
def test_two_million_arguments(folder: Path) -> None:
    def tried(count: int) -> Any:
        (folder / "job.yaml").write_text("script: /x/train.py\nargs: [" + "a, " * count + "a]\n")
        return CliRunner().invoke(main, ["job", "submit", "--dry-run", "--config", "job.yaml"])

    done = tried(2_000_000)
    assert (done.exit_code, "it is 5860 KiB, and such a file has at most 256 KiB" in done.output) == (78, True)
    done = tried(80_000)
    assert done.exit_code == 78
    assert "the job's command and environment are 157 KiB: Linux takes 120 KiB" in done.output


def test_a_command_at_the_limit_is_one_that_a_shell_takes() -> None:
    done = subprocess.run(["sh", "-c", "true " + "a" * pack._COMMAND_LIMIT], check=False)
    assert done.returncode == 0
