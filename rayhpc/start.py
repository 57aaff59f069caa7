"""`mpirun -np N python -m rayhpc.start DRIVER …`: the bootstrap, run by every rank.

`ray start` takes longest of all, and most of that is its import of Ray: so a rank starts it before all else. This
module imports only what that needs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from rayhpc.host import gpu_variables
from rayhpc.processes import keeper_process, this_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rayhpc.model import Assignment
    from rayhpc.processes.ray_start import RayStart

_GONE_SECONDS = 5.0
# When `ray start` may begin before the ranks have agreed: at_once() decides before it begins, fitting() once the
# assignment is there. Most ranks of --one-per-host have no node, Ray reads its certificate when it is imported, and a
# check may end the launch.
_NOT_AT_ONCE = {"--one-per-host": "RAYHPC_ONE_PER_HOST", "--tls": "RAYHPC_TLS", "--check": "RAYHPC_CHECK"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; the exit code of the process, which is the job's on rank 0."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    this_process.open_closed_streams()
    this_process.prepare()
    os.environ.update(gpu_variables.for_ray(os.environ))
    with _early_start() if at_once(arguments, os.environ) else contextlib.nullcontext() as early_start:
        try:
            from rayhpc.launch import rank
        except ImportError as error:
            return _refuse(error)
        return rank.run(arguments, lambda assignment: fitting(early_start, assignment))


def _refuse(error: ImportError) -> int:
    """Say which package this rank's Python lacks; the exit code. The launcher ends the other ranks."""
    from rayhpc.errors import not_importable

    fault = not_importable(error).on(os.uname().nodename, time.time())
    print(fault.text(), file=sys.stderr, flush=True)
    return int(fault.code)


def at_once(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether this rank's `ray start` may begin before the command line is parsed."""
    said = {word.partition("=")[0] for word in arguments}
    return not any(flag in said or variable in environ for flag, variable in _NOT_AT_ONCE.items())


def fitting(early_start: RayStart | None, assignment: Assignment) -> RayStart | None:
    """The early `ray start`, unless Ray had to know more when it was imported; then the node begins another.

    Ray reads at its import how long it waits for the GCS of a large cluster, and its certificate.
    """
    from rayhpc.processes.environment import TIGHT_HEALTH_NODES

    if early_start is None or (assignment.certificate is None and assignment.nodes <= TIGHT_HEALTH_NODES):
        return early_start
    early_start.end()
    return None


@contextlib.contextmanager
def _early_start() -> Iterator[RayStart | None]:
    """A `ray start` that imports Ray while this rank goes on; None if it cannot start. Always cleaned up on exit."""
    try:
        first = keeper_process.Speaking("node")
    except OSError:
        yield None  # the node tries again, and reports the error
        return
    from rayhpc.processes import children, environment, ray_start  # takes as long as the keeper to be ready

    early_start = ray_start.RayStart(first)
    try:
        with contextlib.suppress(OSError):  # as above
            early_start.warm_up(environment.of_import(os.environ))
        yield early_start
    finally:
        early_start.discard()
        children.until_gone([early_start], _GONE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())  # not os._exit: MPICH takes its leave of mpiexec in the C library's exit handlers
