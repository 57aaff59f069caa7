"""What --metrics costs: python -m benchmarks.metrics [SECONDS]. CPU time of an idle run of one node, with and without.

The run is held for so many seconds (60), after 20 s in which everything has started. Prometheus asks every 10 s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.places import REPOSITORY

PYTHON = REPOSITORY / ".venv-dashboard/bin/python"
STARTED_SECONDS = 20.0
UP_SECONDS = 120.0


def processor_seconds(root: psutil.Process) -> dict[int, float]:
    """CPU seconds so far of each process below the launcher."""
    found = {}
    for process in root.children(recursive=True):
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = spent.user + spent.system
    return found


def held(options: list[str], seconds: float) -> float:
    """Share of a core that a held run of one node takes; raises RuntimeError where it does not come up."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "output")
        argv = [str(PYTHON), "-m", "rayhpc.start", "--hold", *options]
        with log.open("wb") as output:
            run = subprocess.Popen(argv, cwd=place, stdout=output, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + UP_SECONDS
            while "holding the cluster" not in log.read_text():
                if run.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(log.read_text())
                time.sleep(0.1)
            time.sleep(STARTED_SECONDS)
            root = psutil.Process(run.pid)
            before, began = processor_seconds(root), time.monotonic()
            time.sleep(seconds)
            after = processor_seconds(root)
            spent = sum(value - before.get(pid, 0.0) for pid, value in after.items())
            return spent / (time.monotonic() - began)
        finally:
            run.send_signal(signal.SIGTERM)
            run.wait(60)


def main(seconds: float) -> None:
    """Print a line for each, and the difference."""
    if not PYTHON.exists():
        sys.exit(f"{PYTHON} is missing: make setup")
    without, wanted = held([], seconds), held(["--metrics"], seconds)
    print(f"without --metrics  {without:7.2%} of a core")
    print(f"with --metrics     {wanted:7.2%} of a core")
    print(f"the difference     {wanted - without:7.2%} of a core, on {os.cpu_count()} CPUs, over {seconds:g} s each")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
