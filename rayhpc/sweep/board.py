"""Where the sweep and the processes beside its trials leave messages for each other: one Ray actor without a CPU."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from rayhpc.sweep.metrics import Report

STOP, WARN = "stop", "warn"
# Every process of a trial that runs waits for an order; Ray lets an actor answer 1,000 calls at once unless told more.
_WAITING = 1_000_000


class Board:
    """Orders to trials, their reports, and the addresses at which the processes of a trial meet."""

    def __init__(self) -> None:
        self._orders: dict[str, asyncio.Queue[str]] = defaultdict(asyncio.Queue)
        self._addresses: dict[str, asyncio.Future[str]] = {}
        self._reports: list[tuple[str, list[Report]]] = []

    async def give(self, trial: str, order: str, processes: int) -> None:
        """Leave an order for each process of a trial."""
        for rank in range(processes):
            await self._orders[f"{trial}.{rank}"].put(order)

    async def next_order(self, trial: str, rank: int) -> str:
        """The next order for a process, whenever it comes."""
        return await self._orders[f"{trial}.{rank}"].get()

    async def forget(self, trial: str, rank: int) -> None:
        """Nobody waits for an order to this process any more: it has ended."""
        await self._orders.pop(f"{trial}.{rank}").put("")

    async def post(self, trial: str, reports: list[Report]) -> None:
        """Reports of a trial."""
        self._reports.append((trial, reports))

    async def take(self) -> list[tuple[str, list[Report]]]:
        """All reports since the last call."""
        reports, self._reports = self._reports, []
        return reports

    async def meet(self, trial: str, address: str) -> None:
        """Tell the other processes of a trial where its first one listens."""
        self._address(trial).set_result(address)

    async def where(self, trial: str) -> str:
        """Where the first process of a trial listens, as soon as it is known."""
        return await self._address(trial)

    def _address(self, trial: str) -> asyncio.Future[str]:
        return self._addresses.setdefault(trial, asyncio.get_running_loop().create_future())


def start(ray: Any) -> Any:
    """The board, on the host of the sweep itself: it ends with the sweep."""
    here = ray.get_runtime_context().get_node_id()
    pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(Board).options(num_cpus=0, max_concurrency=_WAITING, scheduling_strategy=pinned).remote()
