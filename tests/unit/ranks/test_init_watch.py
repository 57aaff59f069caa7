"""The process that watches over a rank in MPI_Init: here the rank is a process that waits, or dies, without MPI."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from rayhpc.ranks import init_watch
from rayhpc.ranks.launcher import Launched
from tests.unit.making import until

# Maps a file of /dev/shm, as MPI does, and does not leave the block before it has been read from standard input.
RANK = """
import mmap, os, signal, sys
from rayhpc.ranks import init_watch
from rayhpc.ranks.launcher import Launched
init_watch.LATE_SECONDS = float(sys.argv[2])
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    shared = mmap.mmap(file.fileno(), 4096)
with init_watch.watched(Launched("mpiexec", 1, 4)):
    print(os.getpid(), flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


def start(late: float) -> tuple[subprocess.Popen[str], Path]:
    file = Path("/dev/shm", f"watched-test-{uuid.uuid4().hex}")
    pipe = subprocess.PIPE
    argv = [sys.executable, "-c", RANK, str(file), str(late)]
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True), file


def test_a_rank_that_is_killed_leaves_nothing_in_shared_memory() -> None:
    rank, file = start(60.0)
    assert rank.stdout
    rank.stdout.readline()
    assert until(lambda: watching(rank.pid), 10)
    rank.kill()
    rank.communicate(timeout=10)
    try:
        assert until(lambda: not file.exists(), 10)
    finally:
        file.unlink(missing_ok=True)


def watching(pid: int) -> bool:
    """The process that watches has looked once: it sleeps for the second time."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    status = Path(f"/proc/{children[0]}/status").read_text() if children else ""
    return any(line.startswith("voluntary") and int(line.split()[1]) > 2 for line in status.splitlines())


def test_a_rank_that_waits_long_says_so_once_and_keeps_its_own() -> None:
    rank, file = start(0.1)
    assert rank.stderr
    said = rank.stderr.readline()
    out, err = rank.communicate("go\n", timeout=20)
    try:
        assert said.startswith("rayhpc: rank 1 of 4 on ")
        assert f"(pid {rank.pid}, started by mpiexec) has waited 0.1 s in MPI_Init: some rank has not come" in said
        assert out.endswith("left\n")
        assert err == ""
        assert file.exists()
    finally:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (Launched("srun", 3, 8), "rank 3 of 8 on "),
        (Launched("PMIx", 3, None), "rank 3 on "),
        (Launched("PMIx", None, None), "a rank on "),
    ],
)
def test_the_sentence_says_what_the_launchers_environment_says(start: Launched, words: str) -> None:
    assert init_watch.waits(start, 17).startswith(f"rayhpc: {words}")
