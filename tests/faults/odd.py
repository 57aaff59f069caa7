"""What the tests of bad input and bad worlds share: how a refusal reads, what is left, directories with short names."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.launch import Job, ours, private_directories

# A refusal comes before Ray starts: the bound is for a busy machine's start of Python and MPI.
BOUND = 20.0
# A screen.
_LINES, _COLUMNS = 24, 200
SUM = """
import ray, sys
ray.init(log_to_driver=False)
print("sum", ray.get(ray.remote(lambda: sum(range(4))).remote()), flush=True)
"""


def refused(job: Job, code: int, *expected: str) -> float:
    """The seconds until the job was refused: told once, on one screen, and no run was begun."""
    began = time.monotonic()
    assert job.wait(60) == code, job.output()
    seconds = time.monotonic() - began
    assert job.output().count(f"exit code {code}:") == 1, job.output()
    for text in expected:
        assert text in job.output()
    assert "Traceback" not in job.output()
    lines = job.output().splitlines()
    assert len(lines) <= _LINES and max(map(len, lines)) <= _COLUMNS, job.output()
    assert not list(job.directory.glob("rayhpc-runs/2*")), "a run was begun"
    return seconds


def left(job: Job) -> list[object]:
    """What is left of the runs that a job has named, also where their records are out of sight."""
    ids = re.findall(r"/(2\d{7}-\d{6}-[0-9a-f]{8})\b", job.output())
    return [*ours(ids), *private_directories(ids)]


# Names of modules of Python, of ours and of Ray's that a user may have files of. types.py is not among them: that is
# read by `python -m` itself, before anything of ours.
SHADOWED = ("random.py", "select.py", "click.py", "grpc.py", "psutil.py")


def shadow(directory: Path) -> None:
    """Put modules with such names there, which say so if anybody imports them."""
    for name in SHADOWED:
        (directory / name).write_text(f"raise RuntimeError('{name} is shadowed')\n")


@contextmanager
def short_directory() -> Iterator[Path]:
    """An empty directory whose name is short enough for --temp-dir; empty again at the end, or it stays and is told."""
    directory = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
    yield directory
    for below in sorted(directory.rglob("*"), reverse=True):
        below.rmdir()
    directory.rmdir()
