"""A Python program that is started before it may begin, and is held back until then."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rayhpc import interpreter
from rayhpc.keeping import Keeping
from rayhpc.proc import Child, Order

_HOLDS = str(Path(interpreter.__file__).parent)


class Standby(Child):
    """A command under its keeper; a Python that is held back imports meanwhile what Ray will need (interpreter/)."""

    def __init__(self, keeping: Keeping) -> None:
        super().__init__(keeping)
        self._held: Order | None = None
        self._begun = False

    def hold(self, order: Order) -> None:
        """Start a Python without options of its own but -u, up to its program; elsewhere nothing happens yet."""
        if can_hold():
            self._held = order
            self.run(replace(order, env=_held_back(order.env), fed=True))

    def release(self, order: Order) -> bool:
        """Let the program begin; False where it was started with another order, or somebody has killed it."""
        if self._held is None:
            self.run(order)
        elif self._held != order or (self.poll() and (self.code is None or self.code < 0)):
            return False
        else:
            self.feed("\n")
        self._begun = True
        return True

    def end(self) -> None:
        """As ever; a program that never began gets no signal to which Python has something to say."""
        if self._held is not None and not self._begun:
            self.signal(signal.SIGKILL)
        super().end()


def can_hold() -> bool:
    """Whether sys.executable is what runs here, and no script around it that may set PYTHONPATH anew."""
    return os.pathsep not in _HOLDS and Path("/proc/self/exe").samefile(sys.executable)


def _held_back(env: Mapping[str, str]) -> dict[str, str]:
    return {**env, "PYTHONPATH": os.pathsep.join([_HOLDS, *filter(None, [env.get("PYTHONPATH")])])}
