"""Take clusters out of the registry that are gone and could not do it themselves."""

from __future__ import annotations

from collections.abc import Sequence

from rayhpc.clusters import sight
from rayhpc.clusters.liveness import Life
from rayhpc.errors import Fault, configuration
from rayhpc.model import ClusterEntry
from rayhpc.records import registry


def forget_clusters(entries: Sequence[ClusterEntry], force: bool) -> None:
    """Remove the entries; raises RayhpcError, having removed none, where one may be alive and force is not given."""
    if not force:
        _check_gone(entries)
    registry.forget_seen(entries)


def _check_gone(entries: Sequence[ClusterEntry]) -> None:
    for seen in sight.look(entries)[0]:
        if seen.life is not Life.GONE:
            raise configuration(
                f"the cluster {seen.entry.id} is not known to be gone: it is {seen.life.value}",
                seen.verdict.why,
                next_step=f"rayhpc cluster stop {seen.entry.id} ends it; --force forgets it, its token included",
            )


def forget_gone() -> tuple[list[ClusterEntry], list[Fault]]:
    """Remove all that are surely gone; which those were, and why a scheduler could not be asked."""
    seen, faults = sight.look(registry.every())
    gone = [each.entry for each in seen if each.life is Life.GONE]
    registry.forget_seen(gone)
    return gone, faults
