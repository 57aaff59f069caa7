"""Stage 5: the user's command, beside the head."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rayhpc import environment
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.model import Assignment, ClusterSpec
from rayhpc.proc import Child, Order

# What an ending driver may leave behind gets SIGTERM and this long.
_LINGER_SECONDS = 0.5
_LADDER = ((int(signal.SIGINT), 1.0), (int(signal.SIGTERM), 1.0))


def resolve(command: Sequence[str]) -> list[str]:
    """The command as it can be executed; raises RayhpcError with 126 or 127 as a shell would.

    A `.py` file and `-m module` are run by this interpreter, anything else as it is.
    """
    first = command[0]
    if first == "-m":
        return [sys.executable, "-u", *command]
    if first.endswith(".py"):
        return [sys.executable, "-u", _readable(first), *command[1:]]
    found = shutil.which(first)
    if found:
        return [found, *command[1:]]
    if Path(first).exists():
        what = "is a directory" if Path(first).is_dir() else "is not executable"
        raise RayhpcError(
            Fault(
                f"the driver {first} {what}", ExitCode.NOT_EXECUTABLE, next_step=f"chmod +x {first}, or name a .py file"
            )
        )
    raise _not_found(first)


def _readable(script: str) -> str:
    path = Path(script)
    if not path.exists():
        raise _not_found(script)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise RayhpcError(
            Fault(f"the driver {script} cannot be read", ExitCode.NOT_EXECUTABLE, next_step=f"ls -ld {script}")
        )
    return script


def _not_found(name: str) -> RayhpcError:
    return RayhpcError(
        Fault(
            f"the driver {name} was not found",
            ExitCode.NOT_FOUND,
            evidence=(f"working directory: {Path.cwd()}",),
            next_step="check the path; a batch job may start in another directory than you do",
        )
    )


def start(argv: Sequence[str], own: Assignment, spec: ClusterSpec) -> Child:
    """Run the driver: its output is ours, its standard input closed, {address} in its arguments replaced."""
    address = spec.address
    return Child(
        Order(
            label=f"{spec.run_id}/driver",
            argv=[word.replace("{address}", address) for word in argv],
            env=environment.of_driver(os.environ, own, spec),
            stdout=sys.stdout.fileno(),
            stderr=sys.stderr.fileno(),
            ladder=_LADDER,
            orphan_ladder=_LADDER,
            linger=_LINGER_SECONDS,
        )
    )


def refusal(argv: Sequence[str], failed: tuple[int, str]) -> Fault:
    """The fault of a driver that the kernel would not execute: errno and text."""
    return Fault(
        f"the driver {argv[0]} cannot be executed: {failed[1]}",
        ExitCode.NOT_EXECUTABLE,
        next_step="check its first line (#!…) and its architecture",
    )
