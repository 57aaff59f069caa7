"""What the user sees of a sweep that runs: a line for each trial that ends; on a terminal, a table of the others."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rayhpc.log import Console
from rayhpc.sweep.plan import Sweep, text

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_PER_SECOND = 2


@dataclass(frozen=True)
class Row:
    """A trial that runs: what it was given, what it reported last, since when it runs (Unix seconds)."""

    trial: str
    values: str
    report: dict[str, float]
    began: float


class Screen:
    """Timed lines on standard error; the live table goes when the sweep ends."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._console = Console(time.time())
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.live import Live

            terminal = RichConsole(stderr=True)
            # Lines of ours pass through sys.stderr, which Live keeps above the table.
            self._live = Live(console=terminal, transient=True, refresh_per_second=_PER_SECOND)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):  # a terminal that has gone ends no sweep
                self._live.stop()
            self._live = None

    def line(self, words: str) -> None:
        """Say it, with the seconds since the beginning."""
        self._console.line(words)

    def running(self, rows: Sequence[Row]) -> None:
        """Show the trials that run now."""
        if self._live is not None:
            self._live.update(self._table(rows))

    def _table(self, rows: Sequence[Row]) -> Table:
        from rich.table import Table

        metric = self._sweep.metric
        table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
        for column in ("RUNNING", "SECONDS", "STEP", metric.upper() or "REPORTS"):
            table.add_column(column, no_wrap=True, justify="left" if column == "RUNNING" else "right")
        table.add_column("VALUES", overflow="ellipsis", no_wrap=True, ratio=1)
        now = time.time()
        for row in rows:
            seen = row.report.get(metric) if metric else len(row.report)
            numbers = (f"{now - row.began:.0f}", _number(row.report.get("step")), _number(seen))
            table.add_row(row.trial, *numbers, row.values)
        return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def given(values: dict[str, Any]) -> str:
    """A trial's values in a line, floats with the digits that a reader compares."""
    return "  ".join(f"{name}={short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else text(value)
