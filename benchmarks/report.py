"""Samples in, figures out: medians, spread, ratios within a turn, the machine; and the text of it. Mostly pure."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.contenders import OPTIONS, RAYHPC, reference
from benchmarks.processes import KINDS

METRICS = ("first_task", "job", "release")
_TITLES = {"first_task": "first task", "job": "whole job", "release": "release"}
_PACKAGES = ("ray", "mpi4py", "mpich", "rayhpc", "numpy")


@dataclass(frozen=True)
class Spread:
    """The middle of some figures, and how far they lie apart."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread | None:
        """None of no figures."""
        if not figures:
            return None
        return cls(statistics.median(figures), min(figures), max(figures), len(figures))

    def text(self, digits: int = 1) -> str:
        """'5.3 (5.1-5.9)'."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


@dataclass(frozen=True)
class Row:
    """One contender in one place: seconds, and rayhpc's as a part of them, turn by turn."""

    place: str
    nodes: int
    contender: str
    seconds: dict[str, Spread | None]
    ratios: dict[str, Spread | None]
    unended: int


def rows(samples: Sequence[dict[str, Any]]) -> list[Row]:
    """A row for each place and contender, in the order in which they came."""
    keys = dict.fromkeys((sample["place"], sample["nodes"], sample["contender"]) for sample in samples)
    return [_row(samples, *key) for key in sorted(keys, key=lambda key: (key[0], key[1]))]


def _row(samples: Sequence[dict[str, Any]], place: str, nodes: int, contender: str) -> Row:
    here = [sample for sample in samples if (sample["place"], sample["nodes"]) == (place, nodes)]
    own = [sample for sample in here if sample["contender"] == contender]
    compared = {sample["turn"]: sample for sample in here if sample["contender"] == reference(contender)}
    return Row(
        place, nodes, contender,
        {metric: Spread.of(_known(sample[metric] for sample in own)) for metric in METRICS},
        {metric: Spread.of(ratios(own, compared, metric)) for metric in METRICS},
        sum(sample["left"] > 0 for sample in own),
    )  # fmt: skip


def _known(figures: Iterable[float | None]) -> list[float]:
    return [figure for figure in figures if figure is not None]


def ratios(own: Sequence[dict[str, Any]], compared: dict[int, dict[str, Any]], metric: str) -> list[float]:
    """rayhpc's figure divided by the contender's of the same turn, where both have one."""
    pairs = [(compared[sample["turn"]][metric], sample[metric]) for sample in own if sample["turn"] in compared]
    return [first / second for first, second in pairs if first is not None and second]


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, kernel, versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    total = Path("/proc/meminfo").read_text().split()[1]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": cpuinfo.count("processor\t:"),
        "memory_gb": round(int(total) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "options": OPTIONS,
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def markdown(table: Sequence[Row], idle: Sequence[dict[str, Any]], where: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    lines = [", ".join(f"{name} {value}" for name, value in where.items()), ""]
    lines += [
        "| where | contender | n | " + " | ".join(f"{_TITLES[m]}, s" for m in METRICS) + " | rayhpc's part of its |"
    ]
    lines += ["|---|---|---|---|---|---|---|", *map(_line, table)]
    if idle:
        lines += ["", "| where | our processes | CPU s a minute | RSS, MB | PSS, MB | largest, MB |"]
        lines += ["|---|---|---|---|---|---|", *map(_idle_line, idle)]
        lines += ["", f"| bring-up, CPU s of all nodes | {' | '.join(KINDS)} | all | per node |"]
        lines += ["|---" * (len(KINDS) + 3) + "|", *map(_bring_up_line, idle)]
    return "\n".join(lines)


def place_name(place: str, nodes: int) -> str:
    """'4 hosts', 'one host, 2 nodes'."""
    if place == "hosts":
        return f"{nodes} host{'s' if nodes > 1 else ''}"
    return f"{place}, {nodes} node{'s' if nodes > 1 else ''}"


def _line(row: Row) -> str:
    cells = [_cell(row, metric) for metric in METRICS]
    shares = ", ".join(
        f"{_TITLES[metric]} {ratio.text(2)}" for metric in METRICS if (ratio := row.ratios[metric]) is not None
    )
    count = row.seconds["first_task"].count if row.seconds["first_task"] else 0
    part = "" if row.contender == RAYHPC.name else shares
    return f"| {place_name(row.place, row.nodes)} | {row.contender} | {count} | {' | '.join(cells)} | {part} |"


def _cell(row: Row, metric: str) -> str:
    spread = row.seconds[metric]
    late = f"{row.unended} x not within 120 s" if metric != "first_task" and row.unended else ""
    return " ".join(filter(None, [spread.text() if spread else "", late])) or "-"


def _idle_line(entry: dict[str, Any]) -> str:
    memory = [f"{entry[name] / 2**20:.0f}" for name in ("rss", "pss", "largest_rss")]
    where = place_name(entry["place"], entry["nodes"])
    return f"| {where} | {entry['processes']} | {entry['cpu_per_minute']:.2f} | {' | '.join(memory)} |"


def _bring_up_line(entry: dict[str, Any]) -> str:
    seconds = [entry["bring_up"][name] for name in KINDS]
    seconds += [sum(seconds), sum(seconds) / entry["nodes"]]
    where = place_name(entry["place"], entry["nodes"])
    return f"| {where} | {' | '.join(f'{used:.1f}' for used in seconds)} |"


def load(file: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; none if it is not there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(file: Path, record: dict[str, Any]) -> None:
    """Add a line."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def write(directory: Path) -> list[Row]:
    """report.json and report.md from what has been kept in a directory."""
    samples, idle, where = load(directory / "runs.jsonl"), load(directory / "idle.jsonl"), machine()
    table = rows(samples)
    content = {"machine": where, "rows": [asdict(row) for row in table], "idle": idle, "runs": samples}
    (directory / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    (directory / "report.md").write_text(markdown(table, idle, where) + "\n")
    return table
