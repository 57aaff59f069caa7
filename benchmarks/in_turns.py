"""Run a training script whose iterations wait for their turn: GO DONE SCRIPT ARGUMENTS….

GO and DONE are FIFOs. Each call of RLlib's Algorithm.train() begins with a line from GO. The next call first writes a
line to DONE: the environment steps that were sampled, and the seconds since, with what the script did in between.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm


def train_in_turns(go: Path, done: Path) -> None:
    """Let train() wait for its turn, and report the one before."""
    begin, report, train = go.open("rb", buffering=0), os.open(done, os.O_WRONLY), Algorithm.train
    turn: list[float] = []

    def in_turn(self: Algorithm) -> Any:
        if turn:
            steps, began = turn
            os.write(report, f"{steps:.0f} {time.monotonic() - began!r}\n".encode())
        begin.readline()
        began = time.monotonic()
        result = train(self)
        turn[:] = [result["env_runners"]["num_env_steps_sampled"], began]
        return result

    Algorithm.train = in_turn  # type: ignore[method-assign]


def main() -> None:
    """Be the script."""
    go, done, script, *arguments = sys.argv[1:]
    train_in_turns(Path(go), Path(done))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
