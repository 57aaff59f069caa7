"""Files and checkpoints are whole or absent, and two trainings are never mixed."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from rayhpc.rllib.checkpoints import checkpoint_at, checkpoints_in, newest_checkpoint
from rayhpc.rllib.command_line import place_of
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.files import write_whole
from rayhpc.rllib.metrics import CSV_HEADER, csv_lines, read_metrics
from rayhpc.rllib.output import make_ready, place_and_start

from .making import iterations_in, make_checkpoint, options, row


def test_metrics_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [replace(row(1, mean=math.nan), episodes=0), row(2, mean=123.456789)]
    (tmp_path / "metrics.csv").write_text(CSV_HEADER + csv_lines(rows))
    assert ",,," in (tmp_path / "metrics.csv").read_text()
    first, second = read_metrics(tmp_path / "metrics.csv")
    assert math.isnan(first.return_mean)
    assert second == rows[1]


def test_a_checkpoint_is_found_again(tmp_path: Path) -> None:
    written = make_checkpoint(tmp_path, 12)
    assert written.path.name == "checkpoint-000012"
    assert newest_checkpoint(tmp_path) == written == checkpoint_at(written.path)
    assert read_metrics(written.path / "metrics.csv") == [row(number) for number in range(1, 13)]
    assert (written.path / "algorithm" / "state.pkl").read_bytes() == b"weights"


def test_the_newest_is_the_one_with_most_iterations(tmp_path: Path) -> None:
    for iteration in (1_000_000, 999_999, 5):
        make_checkpoint(tmp_path, 1)
        (tmp_path / "checkpoint-000001").rename(tmp_path / f"checkpoint-{iteration:06d}")
        changed = json.loads((tmp_path / f"checkpoint-{iteration:06d}" / "manifest.json").read_text())
        (tmp_path / f"checkpoint-{iteration:06d}" / "manifest.json").write_text(
            json.dumps({**changed, "iteration": iteration})
        )
    assert iterations_in(tmp_path) == [5, 999_999, 1_000_000]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"iteration": 3}'])
def test_without_a_good_manifest_it_is_no_checkpoint(tmp_path: Path, content: str | None) -> None:
    make_checkpoint(tmp_path, 2)
    broken = make_checkpoint(tmp_path, 3).path / "manifest.json"
    broken.unlink()
    if content is not None:
        broken.write_text(content)
    assert iterations_in(tmp_path) == [2]
    assert checkpoint_at(broken.parent) is None


def test_a_directory_of_the_user_is_left_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 3).path.rename(tmp_path / "checkpoint-best")
    assert iterations_in(tmp_path) == []


KILLS = {
    "while RLlib writes": "save_to = lambda path: (Path(path).mkdir(), kill())",
    "before the manifest": "checkpoints.json_text = lambda _: kill()",
    "between the files": "checkpoints.flush = lambda _: kill()",
    "before it gets its name": "Path.rename = lambda *_: kill()",
    "while one is deleted": "checkpoints.shutil.rmtree = lambda at: ((at / 'algorithm/state.pkl').unlink(), kill())",
}


@pytest.mark.parametrize("patch", KILLS.values(), ids=KILLS.keys())
def test_sigkill_leaves_only_whole_checkpoints(tmp_path: Path, patch: str) -> None:
    make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2)
    script = f"""
        import os, signal
        from pathlib import Path
        from rayhpc.rllib import checkpoints
        from rayhpc.rllib.metrics import Row
        def kill(): os.kill(os.getpid(), signal.SIGKILL)
        def save_to(path): Path(path).mkdir(); Path(path, "state.pkl").write_bytes(b"weights")
        folder, rows = Path({str(tmp_path)!r}), [Row(n, n, 1, 1.0, 1.0, 1.0, 1.0, 1.0) for n in (1, 2, 3)]
        {patch}
        checkpoints.write_checkpoint(folder, checkpoints.Manifest("CartPole-v1", 3, 3, 3.0, []), rows, save_to)
        checkpoints.delete_checkpoint(folder / "checkpoint-000001")
    """
    ended = subprocess.run([sys.executable, "-B", "-c", textwrap.dedent(script)], check=False)
    assert ended.returncode == -signal.SIGKILL
    for checkpoint in checkpoints_in(tmp_path):
        assert (checkpoint.path / "algorithm" / "state.pkl").exists()
        assert len(read_metrics(checkpoint.path / "metrics.csv")) == checkpoint.manifest.iteration
    assert 2 in iterations_in(tmp_path)
    leftovers = list(tmp_path.glob(".partial-*"))
    assert leftovers
    assert all(checkpoint_at(path) is None for path in leftovers)
    make_ready(tmp_path, [], keep_checkpoints=True)
    assert not list(tmp_path.glob(".partial-*"))
    assert 2 in iterations_in(tmp_path)


def test_an_incomplete_directory_does_not_block_its_name(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-000003" / "algorithm").mkdir(parents=True)
    make_checkpoint(tmp_path, 3)
    assert iterations_in(tmp_path) == [3]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    write_whole(path, b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "new"


def start(*arguments: str) -> tuple[Path, int | None]:
    output, checkpoint = place_and_start(place_of(options(*arguments)))
    return output, checkpoint.manifest.iteration if checkpoint else None


def test_a_fresh_start(tmp_path: Path) -> None:
    assert start("--output", f"{tmp_path}/new") == (tmp_path / "new", None)
    assert start("--output", f"{tmp_path}/new", "--resume") == (tmp_path / "new", None)


def test_resuming_takes_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 10)
    newest = make_checkpoint(tmp_path, 20).path
    (make_checkpoint(tmp_path, 30).path / "manifest.json").unlink()
    assert start("--output", str(tmp_path), "--resume") == (tmp_path, 20)
    assert start("--resume", str(tmp_path)) == (tmp_path, 20)
    assert start("--resume", str(newest)) == (tmp_path, 20)
    assert start("--resume", str(newest), "--output", f"{tmp_path}/branch") == (tmp_path / "branch", 20)
    assert start("--output", str(tmp_path), "--overwrite") == (tmp_path, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{0}/old"], "checkpoints of an earlier run"),
        (["--output", "{0}/old", "--resume", "{0}/other"], "checkpoints of an earlier run"),
        (["--output", "{0}/old", "--resume", "--overwrite"], "would delete what --resume needs"),
        (["--output", "{0}/old", "--resume", "{0}/old/checkpoint-000010"], "is newer than"),
        (["--output", "{0}/old", "--resume", "--env", "Acrobot-v1"], "was trained on --env CartPole-v1"),
        (["--resume", "{0}/nowhere"], "there is no complete checkpoint"),
        (["--resume", "{0}"], "there is no complete checkpoint"),
    ],
)
def test_two_trainings_are_never_mixed(tmp_path: Path, arguments: list[str], message: str) -> None:
    make_checkpoint(tmp_path / "old", 10)
    make_checkpoint(tmp_path / "old", 20)
    make_checkpoint(tmp_path / "other", 30)
    with pytest.raises(UsageError, match=message):
        start(*(argument.format(tmp_path) for argument in arguments))


def test_by_default_each_fresh_run_has_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Path("ppo-results/CartPole-v1"), Path("ppo-results/CartPole-v1-run2")
    assert start() == start("--resume") == (first, None)
    make_checkpoint(first, 10)
    assert start() == (second, None)
    assert start("--resume") == (first, 10)
    make_checkpoint(second, 5)
    assert start() == (Path("ppo-results/CartPole-v1-run3"), None)
    assert start("--resume") == (second, 5)
    assert start("--overwrite") == (first, None)
    assert start("--env", "ALE/Pong v5") == (Path("ppo-results/ALE-Pong-v5"), None)


def test_making_ready_rewinds_the_metrics(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 2)
    (tmp_path / "metrics.csv").write_text("of an iteration after the checkpoint")
    (tmp_path / "result.json").write_text("of the run before")
    make_ready(tmp_path, [row(1), row(2)], keep_checkpoints=True)
    assert read_metrics(tmp_path / "metrics.csv") == [row(1), row(2)]
    assert not (tmp_path / "result.json").exists()
    assert iterations_in(tmp_path) == [2]
    make_ready(tmp_path, [], keep_checkpoints=False)
    assert iterations_in(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        make_ready(tmp_path / "file", [], keep_checkpoints=False)
    with pytest.raises(UsageError, match="--output"):
        make_ready(tmp_path / "file" / "below", [], keep_checkpoints=False)
