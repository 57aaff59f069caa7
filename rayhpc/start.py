"""`mpirun -np N python -m rayhpc.start DRIVER …`: the bootstrap, run by every rank.

`ray start` takes longest of all, and most of that is its import of Ray: so a rank begins it before all else. What is
imported here is what that needs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from rayhpc.host import gpu_variables
from rayhpc.processes import keeper_process, this_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rayhpc.processes.ray_start import RayStart

_GONE_SECONDS = 5.0
# Most ranks of --one-per-host have no node, and with TLS Ray wants to know its certificate when it is imported.
_NOT_AT_ONCE = {"--one-per-host": "RAYHPC_ONE_PER_HOST", "--tls": "RAYHPC_TLS"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; the exit code of the process, which is the job's on rank 0."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    this_process.open_closed_streams()
    this_process.prepare()
    os.environ.update(gpu_variables.for_ray(os.environ))
    with _beginning() if at_once(words, os.environ) else contextlib.nullcontext() as begun:
        from rayhpc.launch import rank

        return rank.run(words, begun)


def at_once(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether this rank's `ray start` may begin before anybody has understood the command line."""
    return not any(flag in words or variable in environ for flag, variable in _NOT_AT_ONCE.items())


@contextlib.contextmanager
def _beginning() -> Iterator[RayStart | None]:
    """A `ray start` that imports Ray while this rank does all else; at the end it is gone, and what was made for it."""
    try:
        first = keeper_process.Speaking("node")
    except OSError:
        yield None  # the node tries again, and tells what hinders it
        return
    from rayhpc.processes import children, environment, ray_start  # takes as long as the keeper to be ready

    begun = ray_start.RayStart(first)
    try:
        with contextlib.suppress(OSError):  # as above
            begun.warm_up(environment.of_import(os.environ))
        yield begun
    finally:
        begun.discard()
        children.until_gone([begun], _GONE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())  # not os._exit: MPICH takes its leave of mpiexec in the C library's exit handlers
