"""Many real Ray nodes on this machine: python -m benchmarks.scale [--ranks 64] [--hosts 16].

Side by side: rayhpc, `ray start` by hand, and `ray symmetric-run`, which starts one node on a host and so needs hosts
(virtual ones, under a real Slurm; root). Each is launched once. scale.jsonl and scale.md in --output: seconds until
all nodes are there and the first task has run, and from the driver's end until everything is gone; CPU seconds and
memory of all processes for each node, the launcher's and the driver's included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import contenders, measure, processes, report
from benchmarks.__main__ import all_places, sizes
from benchmarks.contenders import Contender
from benchmarks.places import REPOSITORY, Place

# How long the driver sleeps after its first task, while memory is looked at.
_SLEEP = 20.0
_SETTLE = 5.0


@dataclass(frozen=True)
class Scale:
    """One launch. cpu: CPU seconds until the first task, for each node; memory: bytes for each node, shared pages
    divided by their users; release: None where something was still there after the limit; left: processes then.
    """

    place: str
    nodes: int
    contender: str
    first_task: float
    release: float | None
    cpu: float
    memory: float
    processes: float
    left: int


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--ranks", type=sizes, metavar="N,N", help="Ray nodes on this host alone")
    parser.add_argument("--hosts", type=sizes, metavar="N,N", help="virtual hosts under Slurm, a node on each (root)")
    parser.add_argument("--limit", type=float, default=900.0, metavar="S", help="for a start, and for an end (900)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/scale", metavar="DIR")
    options = parser.parse_args(words)
    if not (options.ranks or options.hosts):
        parser.error("name --ranks, --hosts or both")
    return options


def patient(limit: float) -> Contender:
    """rayhpc, which waits as long for its nodes as the others may take."""

    def argv(place: Place, directory: Path, command: list[str]) -> list[str]:
        words = contenders.RAYHPC.argv(place, directory, command)
        words.insert(words.index("rayhpc.start") + 1, f"--timeout={limit:g}")
        return words

    return Contender(contenders.RAYHPC.name, argv)


def launch(place: Place, contender: Contender, directory: Path, limit: float) -> Scale:
    """Bring it up, look at it while its driver sleeps, see it gone; raises MeasurementError where it does not come."""
    place.clear()
    directory.mkdir(parents=True)
    try:
        place.start(contender.argv(place, directory, contenders.driver(place, directory, _SLEEP)), directory)
        launched, first = (measure.stamp(place, directory, name, limit) for name in ("launched", "first_task"))
        living = place.living()
        cpu = sum(processes.cpu(proc, [pid], children=True) for proc, pid in living)
        time.sleep(max(0.0, first + _SETTLE - time.time()))  # so that what has only just started counts in full
        used = [processes.usage(proc, [pid]) for proc, pid in place.living()]
        end = measure.stamp(place, directory, "driver_end", limit)
        gone = measure.when(lambda: not place.living(), limit)
        return Scale(
            place.name, place.nodes, contender.name, first - launched, None if gone is None else gone - end,
            cpu / place.nodes, sum(use.pss for use in used) / place.nodes, len(living) / place.nodes,
            len(place.living()),
        )  # fmt: skip
    finally:
        place.clear()


def table(found: Sequence[Scale]) -> Iterator[str]:
    """The lines of scale.md. Pure."""
    yield "| place | nodes | | first task, s | release, s | CPU s a node | MB a node | processes a node |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in found:
        release = f"{one.release:.1f}" if one.release is not None else f"not ended: {one.left} processes"
        figures = f"{one.first_task:.1f} | {release} | {one.cpu:.2f} | {one.memory / 1e6:.0f} | {one.processes:.1f}"
        yield f"| {one.place} | {one.nodes} | {one.contender} | {figures} |"


def main() -> None:
    """Launch each contender once in each place; write after each what there is."""
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    found: list[Scale] = []
    with tempfile.TemporaryDirectory(prefix="scale-") as made, all_places(options, Path(made)) as places:
        for place in places:
            for contender in (patient(options.limit), contenders.BY_HAND, contenders.SYMMETRIC_RUN):
                if reason := contender.why_not(place):
                    print(f"{place.name}, {place.nodes}: no {contender.name}: {reason}", file=sys.stderr, flush=True)
                    continue
                directory = Path(made, f"{place.name}-{place.nodes}-{contender.name}".replace(" ", "_"))
                try:
                    found.append(launch(place, contender, directory, options.limit))
                except measure.MeasurementError as problem:  # the next one may be better
                    print(f"{place.name}, {place.nodes}: {contender.name} failed: {problem}", file=sys.stderr)
                    continue
                report.keep(options.output / "scale.jsonl", asdict(found[-1]))
                print(json.dumps(asdict(found[-1])), flush=True)
    text = "\n".join([json.dumps(report.machine()), "", *table(found)]) + "\n"
    (options.output / "scale.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
