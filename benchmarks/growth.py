"""How agreement and supervision grow with the ranks: python -m benchmarks.growth [--ranks 2,4,…] [--by tcp].

Real ranks on this host, under MPICH's mpiexec or forked from one process, a sleeping child in the place of Ray
(benchmarks/growth_rank.py).
growth.json and growth.png in --output: seconds, bytes, CPU seconds of rank 0 and of the other ranks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import plots, report
from benchmarks.__main__ import sizes
from benchmarks.contenders import free_port
from benchmarks.measure import MeasurementError
from benchmarks.places import REPOSITORY, environment

_SIZES = [2, 4, 8, 16, 32, 64, 128, 256]
_OPTIONS = ["--num-cpus=1", "--memory=80M", "--object-store-memory=80M"]


@dataclass(frozen=True)
class Growth:
    """One run. Seconds: of the clock, from the launch until rank 0 knows all ranks, from the last rank's imports to the
    agreement, from there until all nodes are alive, and from the decision to the last rank's answer; cpu: CPU seconds.

    supervised: of rank 0 in a minute of running driver, in CPU seconds and bytes; bytes: of rank 0 for each other rank
    until all have agreed, and of a whole run of another rank, sent and received; rss: the most memory, in bytes.
    """

    ranks: int
    meeting_seconds: float
    agreement_seconds: float
    start_seconds: float
    release_seconds: float
    agreement_cpu: float
    start_cpu: float
    release_cpu: float
    supervised_cpu: float
    supervised_bytes: float
    agreement_bytes: float
    others_bytes: float
    others_agreement_cpu: float
    rss: float
    others_rss: float


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--ranks", type=sizes, default=_SIZES, metavar="N,N", help="default: 2,4,8,…,256")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long the driver sleeps (30)")
    parser.add_argument("--by", choices=("mpi", "tcp"), default="mpi", help="how the ranks meet (mpi)")
    parser.add_argument("--no-sweep", action="store_true", help="no look through all processes of the host at the end")
    parser.add_argument("--limit", type=float, default=600.0, metavar="S", help="how long a run may take (600)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/growth", metavar="DIR")
    return parser.parse_args(words)


def launch(ranks: int, options: argparse.Namespace, directory: Path) -> tuple[list[str], dict[str, str]]:
    """What starts so many ranks: its words, and its environment."""
    program = [sys.executable, "-m", "benchmarks.growth_rank", *(["--no-sweep"] if options.no_sweep else [])]
    words = [str(directory), *_OPTIONS, f"--run-dir={directory / 'runs'}", f"--timeout={options.limit}"]
    driver = ["--", "sleep", str(options.seconds)]
    if options.by == "mpi":
        mpirun = [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks)]
        return [*mpirun, *program, *words, *driver], environment()
    meeting = {"RAYHPC_SIZE": str(ranks), "RAYHPC_HEAD": f"127.0.0.1:{free_port()}", "RAYHPC_STATE_DIR": str(directory)}
    return [*program, "--forked", str(ranks), *words, "--rendezvous=tcp", *driver], {**environment(), **meeting}


def measure(ranks: int, options: argparse.Namespace, directory: Path) -> Growth:
    """One run with so many ranks; raises MeasurementError where it fails."""
    runs, (words, env) = directory / "runs", launch(ranks, options, directory)
    began = time.time()
    with (directory / "output").open("wb") as output, subprocess.Popen(
        words, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
    ) as launcher:  # fmt: skip
        try:
            launcher.wait(options.limit)
        finally:
            launcher.terminate()  # its ranks end all that they have started
    if launcher.returncode:
        raise MeasurementError((directory / "output").read_text(errors="replace")[-3000:])
    lines = (runs / "latest/events.jsonl").read_text().splitlines()
    files = [directory / f"rank-{rank}.json" for rank in range(ranks)]
    return growth([json.loads(file.read_text()) for file in files], [json.loads(line) for line in lines], began)


def growth(ranks: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], began: float) -> Growth:
    """The figures, from what every rank noted and from rank 0's events; began: Unix seconds of the launch. Pure."""
    zero, *others = ranks
    ready = max(event["at"] for event in events if event["stage"] == "imported")
    minutes = (zero["decided"]["at"] - zero["driver"]["at"]) / 60
    supervised = {name: _between(zero, "driver", "decided", name) for name in ("cpu", "sent", "received")}
    return Growth(
        ranks=len(ranks),
        meeting_seconds=zero["met"]["at"] - began,
        agreement_seconds=zero["agreed"]["at"] - ready,
        start_seconds=_between(zero, "agreed", "up", "at"),
        release_seconds=_between(zero, "decided", "released", "at"),
        agreement_cpu=_between(zero, "met", "agreed", "cpu"),
        start_cpu=_between(zero, "agreed", "up", "cpu"),
        release_cpu=_between(zero, "decided", "released", "cpu"),
        supervised_cpu=supervised["cpu"] / minutes,
        supervised_bytes=(supervised["sent"] + supervised["received"]) / minutes,
        agreement_bytes=(zero["agreed"]["sent"] + zero["agreed"]["received"]) / len(others),
        others_bytes=statistics.median(rank["left"]["sent"] + rank["left"]["received"] for rank in others),
        others_agreement_cpu=statistics.median(_between(rank, "met", "agreed", "cpu") for rank in others),
        rss=zero["rss"],
        others_rss=statistics.median(rank["rss"] for rank in others),
    )


def _between(rank: dict[str, Any], first: str, last: str, what: str) -> float:
    return float(rank[last][what] - rank[first][what])


_PANELS = {
    "seconds (all ranks on the same cores)": {
        "launch until all have met": "meeting_seconds",
        "agreement, after the last rank's imports": "agreement_seconds",
        "from there until all are started": "start_seconds",
        "decision to the last rank's end": "release_seconds",
    },
    "CPU seconds of a rank": {
        "rank 0: agreement": "agreement_cpu",
        "rank 0: start": "start_cpu",
        "rank 0: a minute of driver": "supervised_cpu",
        "rank 0: release": "release_cpu",
        "another rank: agreement": "others_agreement_cpu",
    },
    "bytes, sent and received": {
        "rank 0, agreement, for each other rank": "agreement_bytes",
        "another rank, whole run": "others_bytes",
        "rank 0, a minute of driver": "supervised_bytes",
    },
}


def draw(found: Sequence[Growth], file: Path) -> None:
    """A panel for each kind of figure, over the number of ranks."""
    numbers = [entry.ranks for entry in found]
    panels = {
        title: {name: [getattr(entry, field) for entry in found] for name, field in lines.items()}
        for title, lines in _PANELS.items()
    }
    plots.draw_growth(numbers, panels, file)


def main() -> None:
    """Measure each size once, the smallest first; write after each what there is."""
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    found: list[Growth] = []
    for ranks in sorted(options.ranks):
        with TemporaryDirectory(prefix="growth-") as made:
            found.append(measure(ranks, options, Path(made)))
        content = {"machine": report.machine(), "seconds": options.seconds, "by": options.by}
        content["growth"] = [asdict(one) for one in found]
        (options.output / "growth.json").write_text(json.dumps(content, indent=2) + "\n")
        draw(found, options.output / "growth.png")
        print(json.dumps(asdict(found[-1])), flush=True)


if __name__ == "__main__":
    main()
