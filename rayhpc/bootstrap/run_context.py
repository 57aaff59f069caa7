"""What all of rank 0's stages work with, from the agreed cluster to the shutdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayhpc.bootstrap.watch import Watch
from rayhpc.log import Console
from rayhpc.model import HEAD_RANK
from rayhpc.options import Options
from rayhpc.ranks.comm import Comm
from rayhpc.records.run_directory import EventLog


@dataclass(frozen=True)
class RunContext:
    """One run, as its stages on rank 0 share it. argv: the driver as it is executed, empty under --hold."""

    comm: Comm
    options: Options
    argv: tuple[str, ...]
    console: Console
    watch: Watch
    log: EventLog

    def milestone(self, stage: str, host: str, text: str, **details: Any) -> None:
        """Record that rank 0, on this host, has reached a stage, and print a line about it."""
        self.log.write(stage, HEAD_RANK, host, **details)
        self.console.line(text)
