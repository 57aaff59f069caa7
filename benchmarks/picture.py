"""`python -m benchmarks.picture`: the picture of the README, drawn again from the table in docs/performance.md."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import plots
from benchmarks.report import METRICS, Row, Spread

_DOCS = Path(__file__).parents[1] / "docs"
_CELL = re.compile(r"([\d.]+) \(([\d.]+)-([\d.]+)\)")


def rows(text: str) -> list[Row]:
    """The rows of the table that report.py has written; raises ValueError where there is none."""
    table = text.partition("| hosts | contender | turns |")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    if not lines:
        raise ValueError("there is no table of contenders")
    return [_row(*line[:6]) for line in lines]


def _row(nodes: str, contender: str, turns: str, *cells: str) -> Row:
    spreads = [_spread(cell, int(turns)) for cell in cells]
    return Row("hosts", int(nodes), contender, dict(zip(METRICS, spreads, strict=True)), {}, 0)


def _spread(cell: str, turns: int) -> Spread | None:
    found = _CELL.fullmatch(cell)
    return Spread(*map(float, found.groups()), turns) if found else None


if __name__ == "__main__":
    plots.draw(rows((_DOCS / "performance.md").read_text()), "hosts", _DOCS / "benchmark.png")
