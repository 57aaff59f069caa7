"""What the user sees: one timed line for each phase on standard error, a live bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Console:
    """Timed lines of one rank. origin: Unix seconds from which the times count; quiet: print nothing."""

    def __init__(self, origin: float, quiet: bool = False) -> None:
        self._origin = origin
        self._quiet = quiet

    def line(self, text: str) -> None:
        """Print '[  1.9 s] text'."""
        self.plain(f"[{time.time() - self._origin:6.1f} s] {text}")

    def plain(self, text: str) -> None:
        """Print without the time."""
        if not self._quiet:
            # One write, so that the lines of several processes on one terminal do not mix. A terminal that has gone
            # must not end the run.
            with contextlib.suppress(OSError):
                sys.stderr.write(text + "\n")
                sys.stderr.flush()

    def bar(self, what: str, total: int) -> Bar:
        """A live bar while a phase lasts; nothing where standard error is no terminal."""
        return _TerminalBar(what, total) if sys.stderr.isatty() and not self._quiet else _NoBar()


class Bar(Protocol):
    """A live count."""

    def __enter__(self) -> Bar: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, done: int) -> None:
        """So many are done."""


class _NoBar:
    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, done: int) -> None:
        pass


class _TerminalBar:
    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=RichConsole(stderr=True),
            transient=True,
        )
        self._progress.add_task(self._what, total=self._total)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done)
