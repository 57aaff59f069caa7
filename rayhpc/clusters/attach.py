"""A shell, or a command, that knows a running cluster."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from rayhpc.clusters import sight
from rayhpc.clusters.liveness import Life
from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.model import KUBERAY, ClusterEntry
from rayhpc.processes import environment
from rayhpc.processes.keeper import write_no_core_files
from rayhpc.records import registry

_SHELL = "/bin/sh"


def attach_command(entry: ClusterEntry, command: Sequence[str], tell: Callable[[str], None]) -> NoReturn:
    """Become the command, or the user's shell without one: its exit code is ours; raises RayhpcError where it cannot.

    A cluster that is gone is refused: Ray's clients would look for it for a minute. Like all that may hold the token in
    its memory, the command writes no core file.
    """
    seen = sight.glance(entry)
    if seen.life is Life.GONE:
        raise configuration(
            f"the cluster {entry.id} is gone: {seen.verdict.why}",
            f"head: {entry.address} on {entry.host}",
            next_step=f"rayhpc cluster forget {entry.id}; rayhpc cluster list",
        )
    elsewhere = "; elsewhere: rayhpc job submit" if entry.dashboard else ""
    where = "in its pods only" if entry.scheduler == KUBERAY else f"on the cluster's hosts only ({entry.host})"
    tell(f"{entry.id} at {entry.address}; ray.init() works {where}{elsewhere}")
    write_no_core_files()
    become(list(command) or [os.environ.get("SHELL") or _SHELL], variables(os.environ, entry))


def variables(environ: Mapping[str, str], entry: ClusterEntry) -> dict[str, str]:
    """The environment of the command: Ray's address and the paths of the secrets, none of another cluster's."""
    return environment.of_guest(environ, entry, str(registry.directory(entry.id)))


def become(argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process; raises RayhpcError with 126 or 127, a shell's codes, where that cannot be."""
    try:
        os.execvpe(argv[0], list(argv), dict(environ))
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOENT
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        raise RayhpcError(
            Fault(
                f"{argv[0]} was not found" if missing else f"{argv[0]} cannot be executed: {error}",
                ExitCode.NOT_FOUND if missing else ExitCode.NOT_EXECUTABLE,
                evidence=(f"PATH: {environ.get('PATH', '')}",),
                next_step="check the name; a module or a virtual environment may have to be loaded first",
            )
        ) from error
