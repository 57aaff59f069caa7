"""What a spare uses while it waits: python -m benchmarks.spares [--seconds S] [--by mpi|file].

Two ranks on this host, the second one by another name, which takes root, so that it is a spare. Prints the CPU seconds
of all its processes (the rank, the keeper, the `ray start` that has imported Ray) in S seconds after the cluster is up,
and their memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import processes
from benchmarks.measure import MeasurementError
from benchmarks.places import environment

_UP_SECONDS = 120.0
_END_SECONDS = 30.0
# Imports go on after the head is up; what is measured is the waiting after them.
_CALM_SECONDS = 20.0
_START = [sys.executable, "-m", "rayhpc.start", "--spares=1", "--num-cpus=1", "--hold", "--no-register"]


def main(seconds: float, by: str) -> None:
    """Measure and print; raises MeasurementError where no spare comes to wait."""
    mark = uuid.uuid4().hex
    named = ["unshare", "-u", "sh", "-c", 'hostname "$0"; exec "$@"', "spare"]
    spare = [*named, "env", f"{processes.MARK}={mark}", *_START]
    with TemporaryDirectory() as made:
        directory = Path(made)
        with (directory / "output").open("wb") as output:
            launched = [
                subprocess.Popen(
                    argv, cwd=directory, env={**environment(), **own}, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=subprocess.STDOUT,
                )
                for argv, own in _commands(by, spare, directory)
            ]  # fmt: skip
        try:
            _await(directory / "output", "spare rank waits", launched[-1])
            time.sleep(_CALM_SECONDS)
            before = _used(mark)
            time.sleep(seconds)
            after = _used(mark)
        finally:
            launched[-1].terminate()
            for process in launched:
                process.wait(_END_SECONDS)
    if not after.count or after.count != before.count:
        raise MeasurementError(f"the spare had {before.count} processes, then {after.count}")
    share = (after.cpu - before.cpu) / seconds
    print(f"{after.count} processes, {share:.4%} of a core in {seconds:g} s by {by}, {after.pss / 2**20:.0f} MiB")


def _commands(by: str, spare: list[str], directory: Path) -> list[tuple[list[str], dict[str, str]]]:
    """What is launched, the one that ends all last, each with variables of its own."""
    if by == "mpi":
        mpirun = str(Path(sys.executable).with_name("mpirun"))
        return [([mpirun, "-np", "1", *_START, ":", "-np", "1", *spare], {})]
    meeting = {"RAYHPC_RENDEZVOUS": "file", "RAYHPC_RENDEZVOUS_FILE": str(directory / "meeting"), "RAYHPC_SIZE": "2"}
    return [(spare, {**meeting, "RAYHPC_RANK": "1"}), (_START, {**meeting, "RAYHPC_RANK": "0"})]


def _await(file: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _UP_SECONDS
    while words not in (text := file.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > end:
            raise MeasurementError(text)
        time.sleep(0.1)


def _used(mark: str) -> processes.Usage:
    return processes.usage(Path("/proc"), processes.marked(mark))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--by", choices=("mpi", "file"), default="mpi")
    chosen = parser.parse_args()
    main(chosen.seconds, chosen.by)
