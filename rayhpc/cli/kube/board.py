"""What `rayhpc kube launch` shows: one live table on a terminal, lines of what changes elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rayhpc.cli.base import tell
from rayhpc.errors import Fault
from rayhpc.kube.launch import View


class Board:
    """Shows looks at clusters that start; a context manager."""

    def __init__(self) -> None:
        self._live: Any = None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: View, fresh: Iterable[Fault]) -> None:
        """Show a look; each fault stays above the table."""
        rows = {name: f"cluster {state}" for name, state in view.states.items()}
        rows |= {pod.name: "ready" if pod.ready else pod.phase for pod in view.pods}
        if self._live is None:
            for name, state in rows.items():
                if self._shown.get(name) != state:
                    tell(f"  {name}: {state}")
            self._shown = rows
        else:
            self._live.update(_table(view))
        for fault in fresh:
            tell(fault.text()) if self._live is None else self._live.console.print(fault.text(), markup=False)


def _table(view: View) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for column in ("CLUSTER", "POD", "STATE", "WHY"):
        table.add_column(column)
    for name, state in view.states.items():
        table.add_row(Text(name), Text(""), Text(state), Text(""))
    for pod in view.pods:
        state = "ready" if pod.ready else pod.phase
        table.add_row(*map(Text, (pod.cluster, pod.name, state, pod.words.split("\n")[0][:120])))
    return table
