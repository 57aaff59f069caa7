"""What the stand-ins for batch systems share: a server whose state is files, and jobs that really run on this host.

Each stand-in adds its scheduler's own rules and words. All hosts of a job are this one. The server's state is in a
directory below $HOME, so that jobs find it too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"])
# Seconds after the first step, and what is done then; the last step is done again and again.
Ladder = Sequence[tuple[float, Callable[[], None]]]


class Server:
    """The jobs of one scheduler: a directory each, named by the job's number."""

    def __init__(self, name: str, program: str, identify: Callable[[int], str] = str) -> None:
        """identify: the id of a job by its number."""
        self.folder = HOME / name
        self.program = program
        self.identify = identify

    def accept(self, job: dict[str, Any], script: str) -> dict[str, Any]:
        """Spool the script, and start what will run the job; the job, with number and id."""
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            number = 12 + sum(entry.is_dir() for entry in self.folder.iterdir())
            folder = self.of(number)
            folder.mkdir()
        (folder / "script").write_text(script)
        (folder / "script").chmod(0o700)
        job = {**job, "number": number, "id": self.identify(number), "state": "Q", "exit": None}
        save(folder, job)
        subprocess.Popen(
            [sys.executable, self.program, "mom", str(number)], start_new_session=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=(folder / "mom").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        return job

    def of(self, number: int | str) -> Path:
        return self.folder / str(number)


def save(folder: Path, job: dict[str, Any]) -> None:
    fresh = folder / f"job.{os.getpid()}"
    fresh.write_text(json.dumps(job))
    fresh.rename(folder / "job")


def load(folder: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((folder / "job").read_text())
    return job


def refuse(command: str, code: int, text: str) -> int:
    print(f"{command}: {text}", file=sys.stderr)
    return code


def hosts(count: int) -> list[str]:
    """This host, node2, node3, …"""
    return [socket.gethostname(), *(f"node{number}" for number in range(2, count + 1))]


def watch(shell: subprocess.Popen[bytes], ending: Callable[[], Ladder]) -> None:
    """Wait for the end of a job's shell; once `ending()` gives a ladder, go down it."""
    ladder: Ladder = ()
    began, step = 0.0, 0
    while shell.poll() is None:
        if not ladder and (ladder := ending()):
            began = time.monotonic()
        if ladder and time.monotonic() - began >= ladder[step][0]:
            ladder[step][1]()
            step = min(step + 1, len(ladder) - 1)
        time.sleep(0.05)


def start_task(folder: Path, host: str, argv: Sequence[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process of the job on one of its hosts, in a session of its own, which the scheduler can signal."""
    task = subprocess.Popen(argv, start_new_session=True, env=environ)
    (folder / f"task.{task.pid}").write_text(host)
    return task


def tasks(folder: Path) -> list[int]:
    return [int(entry.name.partition(".")[2]) for entry in folder.glob("task.*")]


def signal_sessions(sessions: Sequence[int], signum: int, spare: int = 0) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if pid != spare and os.getsid(pid) in sessions:
                os.kill(pid, signum)


def kill(folder: Path, shell: int) -> None:
    """The end of whatever is left of a job."""
    signal_sessions([shell, *tasks(folder)], signal.SIGKILL)
