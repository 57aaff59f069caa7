"""Messages between a sweep and its trials, without Ray."""

from __future__ import annotations

import asyncio

from rayhpc.sweep.board import Board


def test_a_process_that_has_ended_waits_for_no_order() -> None:
    """Each that waits takes one of the calls that Ray lets an actor answer at once."""

    async def scene() -> tuple[str, str]:
        board = Board()
        ended, other = (asyncio.ensure_future(board.next_order("0001-1", rank)) for rank in range(2))
        await asyncio.sleep(0)  # both wait
        await board.forget("0001-1", 0)
        await board.give("0001-1", "stop", 2)
        return await asyncio.wait_for(ended, 1), await asyncio.wait_for(other, 1)

    assert asyncio.run(scene()) == ("", "stop")
