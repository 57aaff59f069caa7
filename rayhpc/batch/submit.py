"""A jobscript and a driver become a job."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import rayhpc
from rayhpc.batch import allocations, jobscript
from rayhpc.batch.allocations import Allocation
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.options import Options
from rayhpc.records.ids import new_id
from rayhpc.schedulers import commands
from rayhpc.schedulers.facts import BatchSystem, Request
from rayhpc.user_input import missing_driver
from rayhpc.user_input.secret_names import masked, secrets_among, secrets_in, shown_words

# Options of the bootstrap that belong to one run or are said in another way.
_NOT_HANDED_ON = ("RAYHPC_RUN_DIR", "RAYHPC_DEADLINE")
# Variables of the shipped scripts, each with a default there.
_OF_THE_SCRIPT = (
    "RAYHPC_RANKS_PER_HOST",
    "RAYHPC_REQUEUE",
    "RAYHPC_MAX_RESTARTS",
    "RAYHPC_LAUNCH",
    "RAYHPC_CONTAINER",
    "RAYHPC_CONTAINER_RUNTIME",
    "RAYHPC_CONTAINER_PYTHON",
    "RAYHPC_CONTAINER_BINDS",
)

# The check `jobscript-version` compares it with the one that runs in the job.
_SUBMITTED_BY = {"RAYHPC_SUBMITTED_BY": rayhpc.__version__}


@dataclass(frozen=True)
class Submission:
    """All that will be submitted, made up before anything is done: argv is run in the working directory."""

    system: BatchSystem
    name: str
    run_dir: str
    command: tuple[str, ...]
    script: Path
    text: str
    argv: tuple[str, ...]

    def preview(self, environ: Mapping[str, str]) -> str:
        """The command and the script, for people: without secrets of the environment, or among the words."""
        stdin = f" < {shlex.quote(str(self.script))}" if self.system.on_stdin else ""
        secrets = (*secrets_in(environ), *secrets_among([*self.command, *self.argv]))
        return masked(f"{shlex.join(self.argv)}{stdin}\n\n--- {self.script}\n{self.text}", secrets)


def plan_submission(
    system: BatchSystem,
    request: Request,
    command: Sequence[str],
    run_dir: str,
    script: str,
    environ: Mapping[str, str],
) -> Submission:
    """The submission of a driver's command by a script, the shipped one if none is named; writes nothing.

    Raises RayhpcError for a request that the scheduler has no words for, and for a script without our lines.
    """
    source = Path(script) if script else jobscript.shipped(system.script)
    text = system.adapted(jobscript.read(source))
    name = new_id(time.time())
    directory = allocations.folder(run_dir) / name
    copy = directory / source.name
    try:
        _ = request.ranks
        target = allocations.output(directory) if system.live_output else allocations.scheduler_output(directory)
        flags = [*system.flags(request, str(target), text), *_own_flags(request)]
    except ValueError as error:
        raise _usage(str(error), system) from error
    settings = bootstrap_options(request, run_dir, environ)
    if not system.live_output:
        settings.append(f"exec >>{jobscript.bash_word(str(allocations.output(directory)))} 2>&1")
    return Submission(
        system=system,
        name=name,
        run_dir=str(directory.parent.parent),
        command=tuple(command),
        script=copy,
        text=jobscript.filled(text, command, settings),
        argv=(*system.submit, *flags, *(() if system.on_stdin else (str(copy),))),
    )


def _own_flags(request: Request) -> list[str]:
    return [word for text in request.directive for word in shlex.split(text)]


def bootstrap_options(request: Request, run_dir: str, environ: Mapping[str, str]) -> list[str]:
    """The lines that tell the script what it must know, since not every scheduler hands on the environment.

    What the script reads as a default of its own is set. What it may have set by an edit, that is the environment
    that this Python is in and the bootstrap's options of the login shell, is set only if it has not.
    """
    of_script = {name: environ[name] for name in _OF_THE_SCRIPT if name in environ}
    if request.ranks_per_host:
        of_script["RAYHPC_RANKS_PER_HOST"] = request.ranks_per_host
    options = [f"RAYHPC_{field.name.upper()}" for field in fields(Options)]
    handed = {name: environ[name] for name in options if name in environ and name not in _NOT_HANDED_ON}
    venv = environ.get("RAYHPC_VENV") or _virtual_environment()
    return [
        *jobscript.exports({"RAYHPC_RUN_DIR": str(allocations.folder(run_dir).parent), **_SUBMITTED_BY, **of_script}),
        *jobscript.defaults({**({"RAYHPC_VENV": venv} if venv else {}), **handed}),
    ]


def _virtual_environment() -> str:
    """The one that this Python is in, if it can be activated; else empty."""
    inside = sys.prefix != sys.base_prefix and Path(sys.prefix, "bin", "activate").is_file()
    return sys.prefix if inside else ""


def submit_allocation(submission: Submission) -> Allocation:
    """Write the copy, submit it, write the record; raises RayhpcError if the scheduler refuses, and keeps the copy."""
    directory = allocations.create(submission.run_dir, submission.name)
    jobscript.save(submission.script, submission.text)
    submitted_at = time.time()
    job_id = commands.submit(submission.system, submission.argv, submission.script)
    allocation = Allocation(
        name=submission.name,
        directory=str(directory),
        scheduler=submission.system.name,
        job_id=job_id,
        command=shown_words(submission.command, os.environ),
        submit=shown_words(submission.argv, os.environ),
        submitted_from=str(Path.cwd()),
        submitted_at=submitted_at,
        script=str(submission.script),
        run_dir=submission.run_dir,
    )
    allocations.write(allocation)
    return allocation


def doubts(command: Sequence[str]) -> list[str]:
    """What looks wrong and cannot be known: the job may see files that the login node does not."""
    first = command[0]
    if first.endswith(".py") and not os.access(first, os.R_OK):
        meant = missing_driver.file(first).fault.next_step
        return [f"{first} cannot be read from {Path.cwd()}, where the job starts: {meant}"]
    if shown_words(command, os.environ) != tuple(command):
        return ["there is a secret among the driver's words: everybody on its host sees them (ps). Export it instead"]
    return []


def _usage(what: str, system: BatchSystem) -> RayhpcError:
    return RayhpcError(Fault(what, ExitCode.USAGE, next_step=f"rayhpc alloc submit {system.name} --help"))
