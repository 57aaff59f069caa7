"""Secrets by their names, and records that do not have them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayhpc.cli.main import main
from rayhpc.records import run_directory
from rayhpc.user_input.secret_names import is_secret, masked_log, shown_words

SECRET = 'a"b\\c-exported-größe'


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "x_key"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["KEYBOARD", "MONKEY", "TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "_KEY"])
def test_names_of_others(name: str) -> None:
    assert not is_secret(name)


def test_logs_and_records_are_kept_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the environment has it, as JSON has it, as Python prints it."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("SHORT_KEY", "1")
    written = f"env {SECRET} {SECRET!r} 1\n".encode() + b"\xff\n"
    run_directory.archive(tmp_path / "logs.tar.gz", {"rank-0": (("worker.out", written),)})
    with tarfile.open(tmp_path / "logs.tar.gz") as tar:
        (entry,) = tar.getmembers()
        file = tar.extractfile(entry)
        assert file
        assert file.read() == b"env *** '***' 1\n\xff\n"
    run_directory.write_report(tmp_path / "outcome.json", {"command": ["train.py", f"--key={SECRET}"]})
    assert '"--key=***"' in (tmp_path / "outcome.json").read_text()
    log = run_directory.EventLog(tmp_path)
    log.write("driver", 0, "host", command=[SECRET])
    log.close()
    assert '"command": ["***"]' in (tmp_path / "events.jsonl").read_text()


def test_a_command_is_shown_without_them() -> None:
    words = ["env", "HF_TOKEN=typed", "x.py", f"--wandb={SECRET}", "--api-key=also", "lr=0.1", "A_KEY=0.1", "typed"]
    shown = ["env", "HF_TOKEN=***", "x.py", "--wandb=***", "--api-key=***", "lr=0.1", "A_KEY=0.1", "***"]
    assert shown_words(words, {"WANDB_API_KEY": SECRET}) == tuple(shown)


def test_an_allocation_is_shown_and_recorded_without_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "exported-secret")
    words = ["--", "env", "HF_TOKEN=typed-secret", "x.py", "--key", "exported-secret"]
    done = CliRunner().invoke(main, ["alloc", "submit", "slurm", "--dry-run", *words])
    assert done.exit_code == 0, done.output
    assert "env HF_TOKEN=*** x.py --key ***" in done.stdout
    assert "secret" not in done.stdout
    assert "there is a secret among the driver's words: everybody on its host sees them (ps)" in done.stderr


def test_nothing_is_changed_without_secrets() -> None:
    assert masked_log(b"\x00\xff", {"A_KEY": "1234567", "PATH": "\x00\xff"}) == b"\x00\xff"
