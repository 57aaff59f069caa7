"""`--rendezvous` without MPI: which of the ways the ranks of a launch meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rayhpc.options import Options
from rayhpc.ranks.comm import Comm
from rayhpc.ranks.handshake import Tell
from rayhpc.ranks.rendezvous import by_address, by_file


def meet(options: Options, environ: Mapping[str, str], patience: Callable[[int], float], tell: Tell) -> Comm:
    """Meet the other ranks as --rendezvous says; raises RayhpcError where they do not find each other.

    patience: seconds to wait for so many ranks; tell: prints a line.
    """
    if options.rendezvous == "slurm":
        return by_file.meet(by_file.slurm_identity(options.run_dir, environ), options.interface, patience, tell)
    if options.rendezvous == "file":
        return by_file.meet(by_file.file_identity(environ), options.interface, patience, tell)
    return by_address.meet(environ, patience, tell)
