"""`ray start`, begun before anything is known of the cluster: it imports Ray, and waits to be told the rest."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rayhpc import raymain
from rayhpc.proc import Child, Order

COMMAND = (sys.executable, raymain.__file__)
# Meant for the driver, but a scheduler that follows the process tree sends them to all that it finds there.
_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class RayStart(Child):
    """`ray start` under a keeper, which is there at once; told: it has its arguments."""

    def __init__(self) -> None:
        self.told = False
        self._environment: Mapping[str, str] | None = None
        self._words, self._seen = _nameless_file(), 0
        super().__init__("node", self._words.fileno(), self._words.fileno())

    def warm_up(self, environment: Mapping[str, str]) -> None:
        """Let it import Ray in this environment, unless it does already."""
        if self._environment is None:
            self._environment = dict(environment)
            self.run(Order(argv=COMMAND, env=self._environment, ignored=_IGNORED, fed=True))

    def tell(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Let it start a node: the arguments of `ray start`, its environment in full, and where its words go."""
        assert self._environment is not None
        known = self._environment.items()
        more = dict(item for item in environment.items() if item not in known)
        self.feed(json.dumps({"arguments": list(arguments), "environment": more, "log": str(log)}))
        self.told = True

    def first_words(self) -> bytes:
        """What it has written since the last look, until it knew its log."""
        found = b""
        while chunk := os.pread(self._words.fileno(), 65536, self._seen + len(found)):
            found += chunk
        self._seen += len(found)
        return found


def _nameless_file() -> IO[bytes]:
    """A file that is gone with the last process that has it open. Not a pipe, which would stop whoever fills it."""
    if hasattr(os, "memfd_create"):  # not where Python was built for a glibc before 2.27
        return os.fdopen(os.memfd_create("ray start"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()
