"""python -m benchmarks: contenders side by side, turn by turn; figures, tables and pictures in a directory."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measure, places, plots, report
from benchmarks.contenders import ALL, Contender
from benchmarks.places import REPOSITORY, Place
from rayhpc.cli import runs as cli_runs
from rayhpc.records import runs
from tests.slurm.slurm_cluster import why_unavailable


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--hosts", type=sizes, metavar="N,N", help="virtual hosts under Slurm (root): 1,2,4,8")
    parser.add_argument(
        "--ranks", type=sizes, metavar="N,N", help="Ray nodes on this host alone, without root (default: 4 and 4)"
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="turns (default: 5)")
    parser.add_argument("--slow-repeat", type=int, default=3, metavar="N", help="turns of those that take a minute (3)")
    parser.add_argument("--contenders", type=names, default=list(ALL), metavar="NAME,NAME", help="only these")
    parser.add_argument("--no-idle", action="store_true", help="leave the idle cost out")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/bench", metavar="DIR")
    options = parser.parse_args(words)
    if not options.hosts and not options.ranks:
        options.hosts, options.ranks = ([] if why_unavailable() else [4]), [4]
    return options


def sizes(text: str) -> list[int]:
    """Positive numbers, separated by commas."""
    numbers = [int(word) for word in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: at least one node")
    return numbers


def names(text: str) -> list[Contender]:
    """Contenders by their names."""
    known = {contender.name: contender for contender in ALL}
    if unknown := set(text.split(",")) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return [known[name] for name in text.split(",")]


@contextlib.contextmanager
def all_places(options: argparse.Namespace, scratch: Path) -> Iterator[list[Place]]:
    """The places asked for; raises RuntimeError where hosts cannot be had."""
    here: list[Place] = [places.OneHost(count) for count in options.ranks or []]
    if not options.hosts:
        yield here
        return
    if reason := why_unavailable():
        raise RuntimeError(reason)
    with places.hosts(options.hosts, scratch) as clusters:
        yield [*clusters.values(), *here]


def run(place: Place, options: argparse.Namespace, scratch: Path) -> None:
    """All turns in one place, the contenders alternating."""
    able = [contender for contender in options.contenders if not contender.why_not(place)]
    for contender in options.contenders:
        if reason := contender.why_not(place):
            say(f"{report.place_name(place.name, place.nodes)}: no {contender.name}: {reason}")
    kept = report.load(options.output / "runs.jsonl")
    first = 1 + max((s["turn"] for s in kept if (s["place"], s["nodes"]) == (place.name, place.nodes)), default=-1)
    for turn in range(options.repeat):
        for contender in able:
            if not contender.slow or turn < options.slow_repeat:
                directory = scratch / f"{place.name}-{place.nodes}-{turn}-{contender.name}".replace(" ", "_")
                sample = measure.measure(place, contender, directory, first + turn)
                report.keep(options.output / "runs.jsonl", sample.record())
                say(f"{report.place_name(place.name, place.nodes)}, {contender.name}: {told(sample)}")


def told(sample: measure.Sample) -> str:
    """A sample in words."""
    if sample.parts:
        return " + ".join(f"{name} {seconds:.2f}" for name, seconds in sample.parts.items())
    rest = f"job {sample.job:.2f} s, release {sample.release:.2f} s" if sample.job and sample.release else "not ended"
    return f"first task {sample.first_task:.2f} s, {rest}"


def look_at_idle(place: Place, options: argparse.Namespace, scratch: Path) -> None:
    """The idle cost of rayhpc, and the picture of that run."""
    entry = measure.idle(place, scratch / f"idle-{place.name}-{place.nodes}".replace(" ", "_"))
    report.keep(options.output / "idle.jsonl", entry.record())
    picture = options.output / f"timeline-{place.name}-{place.nodes}.png".replace(" ", "-")
    picture.write_bytes(cli_runs.picture(runs.read(Path(entry.events).parent)))
    say(f"{report.place_name(place.name, place.nodes)}: idle {entry.cpu_per_minute:.2f} CPU s a minute and node")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, keep, draw."""
    options = parse()
    # By default SIGTERM would leave the contender that runs.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        scratch = Path(made)
        with all_places(options, scratch) as here:
            for place in here:
                run(place, options, scratch)
                if not options.no_idle:
                    look_at_idle(place, options, scratch)
    table = report.write(options.output)
    for place_kind in dict.fromkeys(row.place for row in table):
        plots.draw(table, place_kind, options.output / f"{place_kind.replace(' ', '-')}.png")
    print((options.output / "report.md").read_text())


if __name__ == "__main__":
    main()
