"""The driver's own speed: python -m benchmarks.speed [--launches N] [--iterations N] [--output FILE.json].

PPO's environment steps per second of examples/train_ppo.py on one Ray node, under rayhpc and by its own plain
ray.init(), with the same CPUs and the same object store. Both are up at the same time and train in turns, an iteration
each, the one first and then the other: a machine that is slow for a while is slow for both. What waits takes little,
and takes it from both; see the idle cost. The first iterations do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.measure import MeasurementError
from benchmarks.places import HERE, REPOSITORY, OneHost
from benchmarks.report import Spread
from rayhpc.host import this_host

RAYHPC, PLAIN = "rayhpc", "plain ray.init()"
OBJECT_STORE = 500 * 2**20
WARM_UP = 2
_SECONDS_PER_ITERATION = 120.0
_LOOK = 0.5
_LEAST_TURNS = 6


def parse(name: str, description: str | None, words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of a benchmark in turns."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--launches", type=int, default=3, metavar="N", help="of both (default: 3)")
    parser.add_argument("--iterations", type=int, default=16, metavar="N", help=f"that count, after {WARM_UP} (16)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / f"build/{name}.json", metavar="FILE")
    options = parser.parse_args(words)
    if min(options.launches, options.iterations) < 1 or options.launches * options.iterations < _LEAST_TURNS:
        parser.error(f"{_LEAST_TURNS} turns at least: with fewer nothing can be said of the median")
    return options


def example(directory: Path) -> list[str]:
    """examples/train_ppo.py without an end."""
    endless = ["--stop-iterations", "1000000", "--stop-return", "1e9", "--checkpoint-every", "1000000"]
    return [str(REPOSITORY / "examples/train_ppo.py"), "--output", str(directory / "ppo"), *endless]


def under_rayhpc(directory: Path, turns: list[str]) -> list[str]:
    """The example on a cluster of one node with what a plain ray.init() finds here."""
    shares = ["--num-cpus", str(this_host.cpu_count()), "--object-store-memory", str(OBJECT_STORE)]
    # It is ended in the middle, by a signal that the example takes for the wish to go on to a checkpoint.
    runs = ["--run-dir", str(directory / "runs"), "--no-register", "--stop-timeout", "1"]
    return [sys.executable, "-m", "rayhpc.start", *shares, *runs, "--", *turns, *example(directory)]


def plain(directory: Path, turns: list[str]) -> list[str]:
    """The same by itself; of its object store the environment says how large it is."""
    return ["env", f"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES={OBJECT_STORE}", *turns, *example(directory)]


# Makes a command that begins with these words, which let a script's iterations wait for their turn.
Contender = Callable[[Path, list[str]], list[str]]
CONTENDERS: dict[str, Contender] = {RAYHPC: under_rayhpc, PLAIN: plain}


class Training:
    """One contender's training, which waits for its turns until it is ended."""

    def __init__(self, name: str, contender: Contender, directory: Path) -> None:
        self._name, self._directory, self._place = name, directory, OneHost(1)
        directory.mkdir()
        fifos = [directory / "go", directory / "done"]
        for fifo in fifos:
            os.mkfifo(fifo)
        # Open for both ways, so that neither end waits for the other.
        self._go, self._done = (os.open(fifo, os.O_RDWR) for fifo in fifos)
        turns = [sys.executable, str(HERE / "in_turns.py"), *map(str, fifos)]
        self._place.start(contender(directory, turns), directory)

    def iterate(self) -> float:
        """Train for one iteration; its steps per second; raises MeasurementError where it does not come."""
        os.write(self._go, b"\n")
        end = time.monotonic() + _SECONDS_PER_ITERATION
        while not select.select([self._done], [], [], _LOOK)[0]:
            if not self._place.living() or time.monotonic() > end:
                output = (self._directory / "output").read_text(errors="replace")
                raise MeasurementError(f"{self._name}: no iteration:\n{output[-3000:]}")
        steps, seconds = os.read(self._done, 4096).split()
        return int(steps) / float(seconds)

    def end(self) -> None:
        """End it, and all that it has started."""
        self._place.clear()
        os.close(self._go)
        os.close(self._done)


Turn = dict[str, float]


def launch(contenders: Mapping[str, Contender], directory: Path, iterations: int) -> list[Turn]:
    """Steps per second of both, turn by turn; each begins every other turn."""
    directory.mkdir()
    turns: list[Turn] = []
    with ExitStack() as stack:
        trainings = {}
        for name, contender in contenders.items():
            trainings[name] = Training(name, contender, directory / name[:6].strip())
            stack.callback(trainings[name].end)
        for turn in range(WARM_UP + iterations):
            order = list(trainings)[:: 1 if turn % 2 == 0 else -1]
            speeds = {name: trainings[name].iterate() for name in order}
            turns.append({name: speeds[name] for name in contenders})
    return turns[WARM_UP:]


def ratios(turns: Sequence[Turn]) -> list[float]:
    """The first one's speed as a part of the other's, turn by turn."""
    first, other = turns[0]
    return [turn[first] / turn[other] for turn in turns]


def summary(turns: Sequence[Turn]) -> dict[str, Spread | None]:
    """Steps per second of both, and the ratio."""
    both = {name: Spread.of([turn[name] for turn in turns]) for name in turns[0]}
    return {**both, "ratio": Spread.of(ratios(turns))}


def confidence(figures: Sequence[float]) -> tuple[float, float]:
    """Between which two of the figures the true median lies, in 95 of 100 such samples: by signs alone, binomially."""
    ranked, count, tail, least = sorted(figures), len(figures), 0.0, 0
    while least < count // 2 and (tail := tail + math.comb(count, least) / 2**count) <= 0.025:
        least += 1
    least = max(0, least - 1)
    return ranked[least], ranked[count - 1 - least]


def write(turns: Sequence[Turn], file: Path) -> None:
    """The figures so far."""
    spreads = {name: asdict(spread) for name, spread in summary(turns).items() if spread}
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": report.machine(), **spreads, "confidence": confidence(ratios(turns)), "turns": turns}
    file.write_text(json.dumps(content, indent=2) + "\n")


def compare(contenders: Mapping[str, Contender], options: argparse.Namespace) -> None:
    """Measure; write the figures and print their middles."""
    # By default SIGTERM would leave the trainings that run.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory(prefix="speed-") as made:
        for number in range(options.launches):
            fresh = launch(contenders, Path(made, str(number)), options.iterations)
            turns += fresh
            write(turns, options.output)
            print(f"launch {number + 1}: ratio {statistics.median(ratios(fresh)):.3f}", file=sys.stderr, flush=True)
    for name, spread in summary(turns).items():
        if spread:
            print(f"| {name} | {spread.text(3 if name == 'ratio' else 0)} |")
    low, high = confidence(ratios(turns))
    print(f"the median of the ratio lies between {low:.3f} and {high:.3f} (95 %), {len(turns)} turns")


if __name__ == "__main__":
    compare(CONTENDERS, parse("speed", __doc__))
