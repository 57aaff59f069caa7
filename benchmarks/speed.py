"""The driver's own speed: python -m benchmarks.speed [--repeat N] [--iterations N] [--output FILE.json].

PPO's environment steps per second of examples/train_ppo.py on one Ray node, under rayhpc and by its own plain
ray.init(), with the same CPUs and the same object store, alternating; the first iterations do not count.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.measure import MeasurementError
from benchmarks.places import REPOSITORY, OneHost
from benchmarks.report import Spread
from rayhpc import host

RAYHPC, PLAIN = "rayhpc", "plain ray.init()"
OBJECT_STORE = 500 * 2**20
WARM_UP = 2
_SECONDS_PER_ITERATION = 60.0
_LOOK = 0.2


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="turns (default: 5)")
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help=f"that count, after {WARM_UP} (10)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/speed.json", metavar="FILE")
    options = parser.parse_args(words)
    if min(options.repeat, options.iterations) < 1:
        parser.error("one turn and one iteration at least")
    return options


def driver(directory: Path, iterations: int) -> list[str]:
    """The example, for so many iterations whatever it learns."""
    rest = ["--stop-iterations", str(WARM_UP + iterations), "--stop-return", "1e9", "--output", str(directory / "ppo")]
    return [sys.executable, str(REPOSITORY / "examples/train_ppo.py"), *rest]


def under_rayhpc(directory: Path, command: list[str]) -> list[str]:
    """The same command on a cluster of one node with what a plain ray.init() finds here."""
    shares = ["--num-cpus", str(host.cpu_count()), "--object-store-memory", str(OBJECT_STORE)]
    runs = ["--run-dir", str(directory / "runs")]
    return [sys.executable, "-m", "rayhpc.start", *shares, *runs, "--", *command]


def plain(_: Path, command: list[str]) -> list[str]:
    """The same command by itself; of its object store the environment says how large it is."""
    return ["env", f"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES={OBJECT_STORE}", *command]


CONTENDERS = {RAYHPC: under_rayhpc, PLAIN: plain}


def measure(contender: str, directory: Path, iterations: int) -> float:
    """Steps per second of one training; raises MeasurementError where it fails."""
    directory.mkdir()
    command = driver(directory, iterations)
    place = OneHost(1)
    try:
        place.start(CONTENDERS[contender](directory, command), directory)
        end = time.monotonic() + _SECONDS_PER_ITERATION * (WARM_UP + iterations)
        while place.living() and time.monotonic() < end:
            time.sleep(_LOOK)
        if not (directory / "ppo/result.json").exists():
            raise MeasurementError(f"{contender}: {(directory / 'output').read_text(errors='replace')[-3000:]}")
    finally:
        place.clear()
    with (directory / "ppo/metrics.csv").open() as lines:
        return steps_per_second(list(csv.DictReader(lines)))


def steps_per_second(rows: Sequence[dict[str, str]]) -> float:
    """From the end of the warm-up to the last iteration."""
    first, last = rows[WARM_UP - 1], rows[-1]
    steps, seconds = (float(last[name]) - float(first[name]) for name in ("timesteps", "seconds"))
    return steps / seconds


def summary(turns: Sequence[dict[str, float]]) -> dict[str, Spread | None]:
    """Steps per second of both, and rayhpc's as a part of the other's, turn by turn."""
    ratios = [turn[RAYHPC] / turn[PLAIN] for turn in turns]
    return {**{name: Spread.of([turn[name] for turn in turns]) for name in (RAYHPC, PLAIN)}, "ratio": Spread.of(ratios)}


def write(turns: Sequence[dict[str, float]], iterations: int, file: Path) -> None:
    """The figures so far."""
    spreads = {name: asdict(spread) for name, spread in summary(turns).items() if spread}
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": report.machine(), "iterations": iterations, **spreads, "turns": turns}
    file.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Measure in turns, each contender first in every other one; write the figures and print their middles."""
    options = parse()
    # By default SIGTERM would leave the training that runs.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="speed-") as made:
        for turn in range(options.repeat):
            order = list(CONTENDERS)[:: 1 if turn % 2 == 0 else -1]
            turns.append({name: measure(name, Path(made, f"{turn}-{name[:3]}"), options.iterations) for name in order})
            write(turns, options.iterations, options.output)
            print({name: round(value) for name, value in turns[-1].items()}, file=sys.stderr, flush=True)
    for name, spread in summary(turns).items():
        if spread:
            print(f"| {name} | {spread.text(3 if name == 'ratio' else 0)} |")


if __name__ == "__main__":
    main()
