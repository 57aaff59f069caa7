"""`ray start`, begun before anything is known of the cluster: it imports Ray, and waits to be told the rest."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayhpc.inside_ray import ray_command
from rayhpc.processes.children import Child, Order
from rayhpc.processes.keeper_process import Speaking

COMMAND = (sys.executable, ray_command.__file__)
# Meant for the driver, but a scheduler that follows the process tree sends them to all that it finds there.
_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class RayStart(Child):
    """`ray start` under a keeper, which is there at once; told: it has its arguments."""

    def __init__(self, keeping: Speaking) -> None:
        super().__init__(keeping)
        self.told = False
        self._environment: Mapping[str, str] | None = None
        self._words, self._seen = keeping.words, 0

    def warm_up(self, environment: Mapping[str, str]) -> None:
        """Let it import Ray in this environment, unless it does already."""
        if self._environment is None:
            known = dict(environment)
            self.run(Order(argv=COMMAND, env=known, ignored=_IGNORED, fed=True))
            self._environment = known

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
