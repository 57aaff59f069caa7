"""A login node of a scheduler that is a stand-in: a home directory, its commands, where jobs are submitted."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.launch import Mpi, until

HERE = Path(__file__).parent
COMMANDS = {
    "pbs": ("qsub", "qstat", "qdel", "qsig", "pbs_tmrsh"),
    "lsf": ("bsub", "bjobs", "bkill", "blaunch"),
    "flux": ("flux",),
}


@dataclass(frozen=True)
class Login:
    """scheduler: pbs, lsf or flux; variables: what the account's environment has besides HOME and PATH."""

    scheduler: str
    mpi: Mpi
    home: Path
    work: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return Path(self.mpi.python)

    def provide(self, name: str, text: str) -> None:
        """A command of the account."""
        file = self.home / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """The submitter's."""
        return {"HOME": str(self.home), "PATH": f"{self.home / 'bin'}:/usr/bin:/bin", **self.variables}

    def run(
        self, *argv: str | Path, seconds: float = 60.0, stdin: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        with Path(stdin or "/dev/null").open() as source:
            return subprocess.run(
                argv, cwd=self.work, env={**self.environment(), **variables}, stdin=source, capture_output=True,
                text=True, timeout=seconds, check=False,
            )  # fmt: skip

    def alloc(self, *words: str, seconds: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """`rayhpc alloc …` on the login node."""
        return self.run(self.mpi.python, "-m", "rayhpc", "alloc", *words, seconds=seconds, **variables)

    def driver(self, name: str, text: str) -> str:
        (self.work / name).write_text(text)
        return name

    def spool(self, job_id: str) -> Path:
        """The scheduler's own directory of a job."""
        return self.home / f".{self.scheduler}" / job_id.partition(".")[0]

    def job(self, job_id: str) -> dict[str, Any]:
        described: dict[str, Any] = json.loads((self.spool(job_id) / "job").read_text())
        return described

    def output(self, job_id: str) -> str:
        file = self.spool(job_id) / "output"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait(self, job_id: str, seconds: float = 120.0) -> int:
        """The exit code that the scheduler has seen."""
        ended = until(lambda: self.job(job_id)["state"] == "F", seconds)
        assert ended, f"{job_id} has not ended: {self.output(job_id)}"
        code: int = self.job(job_id)["exit"]
        return code

    def jobs(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self.home.glob(f".{self.scheduler}/*/job"))]

    def close(self) -> None:
        """End the jobs that a test forgot."""
        unfinished = [job["id"] for job in self.jobs() if job["state"] != "F"]
        for job_id in unfinished:
            (self.spool(job_id) / "delete").touch()
        for job_id in unfinished:
            self.wait(job_id, 60.0)


@contextmanager
def login(scheduler: str, mpi: Mpi, directory: Path, **variables: str) -> Iterator[Login]:
    """A new account below a directory; at the end no job is left."""
    made = Login(scheduler, mpi, directory / "home", directory / "work", variables)
    for folder in (made.home / "bin", made.work):
        folder.mkdir(parents=True)
    (made.home / ".bash_profile").write_text(f"export PATH={shlex.quote(str(made.home / 'bin'))}:/usr/bin:/bin\n")
    for name in COMMANDS[scheduler]:
        command = shlex.join([sys.executable, str(HERE / f"{scheduler}.py"), name])
        made.provide(name, f'#!/bin/sh\nexec {command} "$@"\n')
    try:
        yield made
    finally:
        made.close()
