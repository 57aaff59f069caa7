"""What `rayhpc kube launch` shows: one live table on a terminal, lines of what changes elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rayhpc.cli.base import clipped, tell
from rayhpc.errors import Fault, counted
from rayhpc.kube import launch
from rayhpc.kube.kubectl import Kubectl
from rayhpc.kube.launch import View
from rayhpc.kube.waiting import Pod

_ROWS = 25
# So many pods that do the same are shown each.
_EACH = 4
_SHOWN_WORDS = 200


def watch(kubectl: Kubectl, names: Sequence[str], kind: str, seconds: float) -> dict[str, Any]:
    """The clusters once they are ready, shown while they start; raises RayhpcError."""
    with Board() as board:
        return launch.wait(kubectl, names, kind, seconds, board.show)


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
        rows |= {pod.name: pod.state for pod in view.pods}
        if self._live is None:
            for name, state in rows.items():
                if self._shown.get(name) != state:
                    tell(f"  {name}: {state}")
            self._shown = rows
        else:
            from rich.constrain import Constrain

            # The terminal writes ^C behind the last line, which must not become two by it.
            self._live.update(Constrain(_table(view), self._live.console.width - len("^C")))
        for text in [fault.text(ends=False) for fault in fresh]:
            tell(text) if self._live is None else self._live.console.print(text, markup=False, highlight=False)


def _table(view: View) -> Any:
    """Clusters, then their pods; of many that do the same only the first, and what they wait for is said once."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for column in ("CLUSTER", "POD", "STATE", "WHY"):
        table.add_column(column, no_wrap=column != "WHY", overflow="fold")
    rows = [(name, "", state, "") for name, state in view.states.items()]
    for alike in _alike(view.pods):
        shown = alike if len(alike) <= _EACH else alike[:1]
        more = f" and {len(alike) - 1} more" if len(alike) > _EACH else ""
        rows += [
            (pod.cluster, pod.name + more, pod.state, "" if number else clipped(pod.words, _SHOWN_WORDS))
            for number, pod in enumerate(shown)
        ]
    for row in rows[:_ROWS]:
        table.add_row(*map(Text, row))
    if len(rows) > _ROWS:
        table.add_row("", Text(f"and {counted(len(rows) - _ROWS, 'more line')}: rayhpc kube show"), "", "")
    return table


def _alike(pods: Iterable[Pod]) -> list[list[Pod]]:
    """Pods of one group in one state, together; those that wait for something first."""
    found: dict[tuple[str, str, str], list[Pod]] = {}
    for pod in pods:
        found.setdefault((pod.cluster, pod.group, pod.state), []).append(pod)
    return sorted(found.values(), key=lambda alike: alike[0].ready)
