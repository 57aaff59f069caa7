"""Scheduler commands that are real executables on PATH, and a jobscript with our lines."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rayhpc.cli.main import main

# For as long as a test needs no more of it than the two lines.
SCRIPT = """#!/bin/bash
#SBATCH --nodes=2
#PBS -l select=2:ncpus=64:mpiprocs=1
#PBS -l place=scatter
#$ -pe mpi 4
set -euo pipefail
# rayhpc: settings
# rayhpc: command
exec python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@"
"""


@dataclass
class Login:
    """A login node: a directory of fake commands, a working directory, and `rayhpc` itself."""

    bin: Path
    home: Path
    script: Path = field(init=False)

    def __post_init__(self) -> None:
        self.script = self.home / "own.sh"
        self.script.write_text(SCRIPT)

    def fake(self, name: str, body: str) -> None:
        """A command that runs these lines of bash; each call's words are added to NAME.calls, one line a call."""
        file = self.bin / name
        note = f"printf '%q ' \"$@\" >>{shlex.quote(str(file))}.calls; echo >>{shlex.quote(str(file))}.calls"
        file.write_text(f"#!/bin/bash\n{note}\n{body}\n")
        file.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The words of each call of a fake command; plain words only."""
        file = self.bin / f"{name}.calls"
        return [shlex.split(line) for line in file.read_text().splitlines()] if file.exists() else []

    def rayhpc(self, *words: str) -> Result:
        """Run `rayhpc alloc …` in this process."""
        return CliRunner().invoke(main, ["alloc", *words])

    def submit(self, scheduler: str = "slurm", *words: str, driver: Sequence[str] = ("./driver", "x")) -> Result:
        """Run `rayhpc alloc submit`, by our own script."""
        return self.rayhpc("submit", scheduler, "--script", str(self.script), *words, "--", *driver)

    @property
    def directory(self) -> Path:
        """The newest allocation."""
        return (self.home / "rayhpc-runs" / "allocations" / "latest").resolve()


def login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """A login node without a scheduler: its PATH has the system's commands but for the schedulers'."""
    home, commands, system = (tmp_path / name for name in ("home", "bin", "system"))
    for directory in (home, commands, system):
        directory.mkdir()
    for name in ("bash", "env", "python3", "cat", "sleep", "date", "touch", "rm", "head", "sed"):
        found = next(Path(place, name) for place in os.defpath.split(":") if Path(place, name).exists())
        (system / name).symlink_to(found)
    monkeypatch.setenv("PATH", f"{commands}:{system}")
    monkeypatch.chdir(home)
    return Login(commands, home)
