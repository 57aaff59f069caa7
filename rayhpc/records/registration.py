"""A run in the registry, kept by a thread of its own: a shared home that hangs must not keep the supervisor waiting."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from rayhpc.errors import RayhpcError
from rayhpc.model import AliveNode, Certificate, ClusterEntry
from rayhpc.records import registry

_LOOK_SECONDS = 2.0
_BEAT_SECONDS = 10.0
# Six small files are removed in milliseconds; a file server that fails over is away for minutes.
_CLOSE_SECONDS = 5.0


class Registration:
    """Enters a run, says every 10 s that it is there, and sends this process SIGTERM when somebody asks for its end.

    Never raises: a run that cannot be entered goes on with one warning.
    """

    def __init__(
        self, entry: ClusterEntry, token: str, certificate: Certificate | None, tell: Callable[[str], None]
    ) -> None:
        self._entry = entry
        self._wanted = entry
        self._tell = tell
        self._closed = threading.Event()
        self._problems: list[str] = []
        secrets = (token, certificate)
        self._thread = threading.Thread(target=self._run, args=secrets, name="registration", daemon=True)
        self._thread.start()

    def move_end(self, end: float) -> None:
        """Enter another end of the job, in Unix seconds, infinite where there is none any more."""
        self._wanted = replace(self._wanted, deadline=end if end < math.inf else 0.0)

    def resize(self, nodes: Sequence[AliveNode], guests: tuple[str, ...]) -> None:
        """Enter the nodes that are alive now, and who has come and left."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        self._wanted = replace(self._wanted, nodes=len(nodes), cpus=cpus, gpus=gpus, guests=guests)

    def close(self) -> list[str]:
        """Remove the entry; in words what went wrong. Takes up to 5 s where the file system hangs."""
        self._closed.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            return [f"the registry does not answer: the entry of {self._entry.id} may stay (rayhpc cluster forget)"]
        return self._problems

    def _run(self, token: str, certificate: Certificate | None) -> None:
        try:
            registry.add(self._entry, token, certificate)
        except RayhpcError as error:
            self._tell(f"WARNING: {error}; {error.fault.next_step}")
            return
        self._serve()
        try:
            registry.forget(self._entry)
        except RayhpcError as error:
            self._problems.append(str(error))

    def _serve(self) -> None:
        """Beat and look for requests until the end, or until the entry was forgotten."""
        answered, beat_at = 0, time.monotonic() + _BEAT_SECONDS
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                asked = registry.stops(self._entry)
                self._follow()
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + _BEAT_SECONDS
                    registry.beat(self._entry)
            except FileNotFoundError:
                return
            except OSError:
                continue  # a file server that is away for a while: the next look may find it again
            if len(asked) > answered:
                answered = len(asked)
                self._tell(f"the end was asked for by {asked[-1]}")
                os.kill(os.getpid(), signal.SIGTERM)

    def _follow(self) -> None:
        """Write what has changed of the entry."""
        wanted = self._wanted
        if wanted != self._entry:
            registry.amend(wanted)
            self._entry = wanted
