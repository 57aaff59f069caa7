"""Two runs never share an output directory; what a dead run left does not stand in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.output_lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from rayhpc.rllib.output_lock import locked
lock = locked(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holding(output: Path, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **more})
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


def test_the_second_run_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    first = holding(tmp_path / "out", SLURM_JOB_ID="4711")
    try:
        with pytest.raises(UsageError, match=rf"--output .*out is in use by pid {first.pid} on \S+, job 4711"):
            locked(tmp_path / "out")
    finally:
        end(first)
    # The kernel gave the lock up with the process, however it ended.
    locked(tmp_path / "out").release()


def test_on_a_file_system_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flock(_: FileLock) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    first = holding(tmp_path)
    monkeypatch.setattr(FileLock, "_acquire", no_flock)
    (tmp_path / LOCK).touch()
    try:
        with pytest.raises(UsageError, match=f"in use by pid {first.pid}"):
            locked(tmp_path)
    finally:
        end(first)
    locked(tmp_path).release()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        locked(tmp_path / "file")
