"""End jobs before their time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayhpc.batch.allocations import Allocation
from rayhpc.schedulers import SYSTEMS, commands


def cancel_allocations(wanted: Sequence[Allocation], tell: Callable[[str], None]) -> None:
    """Ask each scheduler once to end its jobs; raises RayhpcError where one refuses.

    They may take a while to end. What is known to have ended is left alone.
    """
    for allocation in wanted:
        if allocation.ended is not None:
            tell(f"job {allocation.job_id} has ended already: {allocation.ended.state.name}")
    alive = [allocation for allocation in wanted if allocation.ended is None]
    for scheduler in dict.fromkeys(allocation.scheduler for allocation in alive):
        ids = [allocation.job_id for allocation in alive if allocation.scheduler == scheduler]
        commands.cancel(SYSTEMS[scheduler], ids)
        tell(f"asked {scheduler} to end {', '.join(ids)}")
