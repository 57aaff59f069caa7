"""What --tls costs: `python -m tests.faults.tls_cost RUNS` alternates runs of two ranks without and with it."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.launch import Jobs, installed

# Seconds until the first task is done, for 1000 small tasks, and for 200 MB from the other node.
DRIVER = """
import numpy, ray, time
ray.init(log_to_driver=False)
one = ray.remote(num_cpus=0.5)(lambda n: n)
ray.get(one.remote(1))
print("first", time.time(), flush=True)
began = time.time()
ray.get([one.remote(n) for n in range(1000)])
print("tasks", time.time() - began, flush=True)
made = ray.remote(label_selector={"rayhpc-rank": "1"})(lambda: numpy.ones(25_000_000)).remote()
ray.wait([made], fetch_local=False)
began = time.time()
ray.get(made)
print("object", time.time() - began, flush=True)
"""


def measured(jobs: Jobs, name: str, options: list[str]) -> dict[str, float]:
    """Seconds of one run: from its start until all nodes are up and until the first task; then the work's."""
    began = time.time()
    job = jobs.start(*options, "--", "python", "-c", DRIVER, ranks=2, name=name)
    assert job.wait(200) == 0, job.output()
    (up,) = [event["at"] for event in job.events() if event["stage"] == "up"]
    said = {word: float(job.until(rf"{word} ([\d.e-]+)\n").group(1)) for word in ("first", "tasks", "object")}
    return {
        "up": up - began,
        "first task": said["first"] - began,
        "1000 tasks": said["tasks"],
        "200 MB": said["object"],
    }


def main(runs: int) -> None:
    """Print the median, and in brackets all seconds, of each figure."""
    found: dict[str, list[dict[str, float]]] = {"without": [], "--tls": []}
    with tempfile.TemporaryDirectory() as directory:
        jobs = Jobs(installed("mpich"), Path(directory))
        for number in range(runs):
            for what, options in (("without", []), ("--tls", ["--tls"])):
                found[what].append(measured(jobs, f"{what}{number}", options))
    for what, rows in found.items():
        for figure in rows[0]:
            values = sorted(row[figure] for row in rows)
            print(f"{what:8} {figure:11} {statistics.median(values):6.2f} s  ({', '.join(f'{v:.2f}' for v in values)})")


if __name__ == "__main__":
    main(int(sys.argv[1]))
