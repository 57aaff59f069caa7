"""Run the sweep, and say what it has found."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rayhpc.errors import RayhpcError, counted
from rayhpc.sweep import engine, plots, trials
from rayhpc.sweep.plan import Sweep
from rayhpc.sweep.screen import Screen


def tune(sweep: Sweep, parent: Path, resume: bool) -> int:
    """Run what is left of the trials; the exit code of `rayhpc sweep run`. Raises RayhpcError."""
    with trials.opened(parent, sweep, resume) as folder:
        with Screen(sweep) as screen:
            screen.line(f"{folder}: {counted(sweep.trials, 'trial')}, {counted(int(sweep.resources.cpus), 'CPU')} each")
            code = engine.run_sweep(sweep, folder, screen)
        for line in findings(sweep, folder):
            print(line, flush=True)
    return code


def findings(sweep: Sweep, folder: Path) -> list[str]:
    """The best training as a command line, and the files to look at."""
    known = trials.read_trials(folder)
    try:
        best, mean = trials.best(known, sweep)
    except RayhpcError as error:
        return [str(error)]
    over = f", the mean of {sweep.repeat} seeds" if sweep.repeat > 1 else ""
    command = shlex.join(["rayhpc", "lab", "train", *best.command[sweep.program :]])
    lines = [f"best {sweep.metric}: {mean:g}{over}", f"  {command}", f"all trials: {folder / trials.TABLE}"]
    try:
        files: Sequence[Path] = plots.draw(sweep, known, folder)
    except RayhpcError as error:
        return [*lines, f"no pictures: {error}"]
    return [*lines, f"pictures: {' '.join(map(str, files))}"]
