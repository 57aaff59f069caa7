"""`mpirun -np N python -m rayhpc.start DRIVER …`: the bootstrap, run by every rank.

`ray start` takes longest of all, and most of that is its import of Ray: so a rank begins it before all else. What is
imported here is what that needs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from rayhpc import keeping, limits
from rayhpc.keeper import become_subreaper, write_no_core_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rayhpc.warmup import RayStart

_GONE_SECONDS = 5.0
# Most ranks of --one-per-host have no node, and with TLS Ray wants to know its certificate when it is imported.
_NOT_AT_ONCE = {"--one-per-host": "RAYHPC_ONE_PER_HOST", "--tls": "RAYHPC_TLS"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; the exit code of the process, which is the job's on rank 0."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    open_closed_streams()
    prepare_process()
    with _beginning() if at_once(words, os.environ) else contextlib.nullcontext() as begun:
        from rayhpc import rank

        return rank.run(words, begun)


def at_once(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether this rank's `ray start` may begin before anybody has understood the command line."""
    return not any(flag in words or variable in environ for flag, variable in _NOT_AT_ONCE.items())


@contextlib.contextmanager
def _beginning() -> Iterator[RayStart | None]:
    """A `ray start` that imports Ray while this rank does all else; at the end it is gone, and what was made for it."""
    try:
        first = keeping.Speaking("node")
    except OSError:
        yield None  # the node tries again, and tells what hinders it
        return
    from rayhpc import environment, proc, warmup  # takes as long as the keeper to be ready

    begun = warmup.RayStart(first)
    try:
        with contextlib.suppress(OSError):  # as above
            begun.warm_up(environment.of_import(os.environ))
        yield begun
    finally:
        begun.discard()
        proc.until_gone([begun], _GONE_SECONDS)


def prepare_process() -> None:
    """What every rank does first: answer for its descendants, keep no secret in a core file, raise their limits."""
    become_subreaper()
    write_no_core_files()
    limits.raise_soft()


def open_closed_streams() -> None:
    """Put /dev/null where standard input, output or error is closed: else the next pipe of ours would be there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    # Python has None for what was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    sys.exit(main())  # not os._exit: MPICH takes its leave of mpiexec in the C library's exit handlers
