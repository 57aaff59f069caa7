"""Run a training script whose iterations wait for their turn: GO DONE SCRIPT ARGUMENTS….

GO and DONE are FIFOs. Each call of RLlib's Algorithm.train() begins with a line from GO, and ends with a line to DONE:
the environment steps that it has sampled, and its seconds.
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
    """Let train() wait before, and report afterwards."""
    begin, report, train = go.open("rb", buffering=0), os.open(done, os.O_WRONLY), Algorithm.train

    def in_turn(self: Algorithm) -> Any:
        begin.readline()
        began = time.monotonic()
        result = train(self)
        seconds = time.monotonic() - began
        os.write(report, f"{result['env_runners']['num_env_steps_sampled']:.0f} {seconds!r}\n".encode())
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
