"""What trials report, as it comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayhpc.sweep import report
from rayhpc.sweep.metrics import source
from rayhpc.sweep.plan import Reader


def test_the_helper_and_the_reader_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_TRIAL_METRICS", str(tmp_path / "metrics.jsonl"))
    found = source(Reader(), tmp_path)
    assert found.new() == []
    report(step=1, reward=2.5)
    report(step=2, reward=3.5)
    assert found.new() == [{"step": 1, "reward": 2.5}, {"step": 2, "reward": 3.5}]
    assert found.new() == []


def test_without_a_sweep_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYHPC_TRIAL_METRICS", raising=False)
    monkeypatch.chdir(tmp_path)
    report(reward=1)
    assert list(tmp_path.iterdir()) == []


def test_one_line_of_shell_reports(tmp_path: Path) -> None:
    line = "echo '{\"reward\": 4}' >> \"$RAYHPC_TRIAL_METRICS\""
    subprocess.run(["sh", "-c", line], env={"RAYHPC_TRIAL_METRICS": str(tmp_path / "metrics.jsonl")}, check=True)
    assert source(Reader(), tmp_path).new() == [{"reward": 4}]


def test_a_line_without_its_end_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    found = source(Reader(), tmp_path)
    file.write_text('{"a": 1}\n{"a": ')
    assert found.new() == [{"a": 1}]
    file.write_text('{"a": 1}\n{"a": 2}\n')
    assert found.new() == [{"a": 2}]


@pytest.mark.parametrize("line", ["nonsense", "[1, 2]", "{}", '{"a": "b"}', '{"a": NaN}', "\udc80", "7"])
def test_nonsense_is_said_once_and_the_rest_is_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes((f"{line}\n" * 3 + '{"a": 5}\n').encode(errors="surrogateescape"))
    found = source(Reader(), tmp_path)
    assert found.new() == [{"a": 5}]
    assert len(found.problems) == 1
    assert found.problems[0].startswith("metrics.jsonl: ")


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "progress.csv"
    file.write_text("step,reward,note\n1,2.5,ok\n2,,bad\n")
    found = source(Reader("csv", "progress.csv"), tmp_path)
    assert found.new() == [{"step": 1, "reward": 2.5}, {"step": 2}]
    with file.open("a") as stream:
        stream.write("3,7,\n")
    assert found.new() == [{"step": 3, "reward": 7}]


def test_tensorboard(tmp_path: Path) -> None:
    program = (
        "from tensorboardX import SummaryWriter\n"
        "with SummaryWriter('runs') as writer:\n"
        "    for step in range(3): writer.add_scalar('r', step * step, step)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    found = source(Reader("tensorboard", "runs"), tmp_path)
    assert found.new() == [{"step": 0, "r": 0}, {"step": 1, "r": 1}, {"step": 2, "r": 4}]
    assert found.new() == []
