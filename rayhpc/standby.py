"""A Python program that is started before it may begin, and is held back until then."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rayhpc import interpreter
from rayhpc.proc import Child, Order


class Standby(Child):
    """A command under its keeper; while a Python is held back, it imports what Ray needs (interpreter/)."""

    _held: Order | None = None

    def hold(self, order: Order) -> None:
        """Start a Python without options of its own but -u, up to its program; elsewhere nothing happens yet."""
        if is_interpreter_itself():
            self._held = order
            self.run(replace(order, env=_held_back(order.env), fed=True))

    def release(self, order: Order) -> bool:
        """Let the program begin; False where it was started with another order, or has ended already."""
        if self._held is None:
            self.run(order)
            return True
        if self._held != order or self.poll():
            return False
        self.feed("\n")
        return True


def is_interpreter_itself() -> bool:
    """Whether sys.executable is what runs here, and not a script around it that may set PYTHONPATH anew."""
    return Path("/proc/self/exe").samefile(sys.executable)


def _held_back(env: Mapping[str, str]) -> dict[str, str]:
    own = str(Path(interpreter.__file__).parent)
    return {**env, "PYTHONPATH": os.pathsep.join([own, *filter(None, [env.get("PYTHONPATH")])])}
