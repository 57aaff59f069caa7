"""Stage 7: exactly what was started is ended, on every rank; nothing stays but the run directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap import private_directory
from rayhpc.messages import Leave, Stop, Stopped
from rayhpc.model import Assignment
from rayhpc.processes import children, environment
from rayhpc.processes.children import Child, until_gone
from rayhpc.ranks.comm import Comm
from rayhpc.records import run_directory

# Ray's logs of one run, packed into one archive, of which each node gets an equal share.
LOGS_LIMIT = 64 * 2**20
_LOGS_LEAST = 256 * 1024
# A tree is gone 0.1 s after SIGKILL; a process that hangs in the kernel is not waited for much longer than that.
_GONE_SECONDS = 8.0
# Ranks that still answer stop side by side; large archives need a moment.
_STOPPED_SECONDS = 15.0
# Those of whom nothing was heard for a while are told too, and not waited for.
_DOUBTFUL_SECONDS = 2.0


def end_child(child: Child | None) -> list[str]:
    """End a child and all its descendants; what could not be ended, in words."""
    if child is None:
        return []
    child.end()
    if until_gone([child], _GONE_SECONDS):
        return [f"keeper {child.keeper_pid} has not ended within {_GONE_SECONDS:g} s"]
    return [f"{child.left} processes survive SIGKILL"] if child.left else []


def stop_rank(assignment: Assignment, rank: int, node: Child | None, order: Stop) -> Stopped:
    """End this rank's node, take its logs if wanted, remove its private directory."""
    problems = end_child(node)
    killed = node.killed if node else 0
    killed += children.sweep(environment.marker(assignment.run_id, rank), frozenset({os.getpid()}))
    logs: tuple[tuple[str, bytes], ...] = ()
    if assignment.node is not None:
        private = Path(assignment.node.temp_dir)
        if order.logs:
            logs = _ray_logs(private, order.logs_limit)
        problems += private_directory.keep_timelines(private, Path(assignment.run_dir))
        problems += private_directory.remove(private)
    return Stopped(rank, killed, logs, tuple(problems))


def _ray_logs(private: Path, limit: int) -> tuple[tuple[str, bytes], ...]:
    found: list[tuple[str, bytes]] = []
    for session in Path(paths.ray_temp_dir(str(private))).glob("session_2*"):
        found += run_directory.tails(session / "logs", limit)
    return tuple(found)


def stop_order(nodes: int, wanted: bool) -> Stop:
    """What every rank is told at the end."""
    return Stop(wanted, max(_LOGS_LEAST, LOGS_LIMIT // max(1, nodes)))


def stop_others(
    comm: Comm, order: Stop, ranks: Iterable[int], doubtful: frozenset[int], meanwhile: Callable[[], None]
) -> dict[int, Stopped]:
    """Tell the ranks to stop, do one's own part meanwhile, and collect their answers; who is silent is missing."""
    waiting = set(ranks)
    for rank in waiting:
        comm.send(rank, order)
    meanwhile()
    answers: dict[int, Stopped] = {}
    began = time.monotonic()
    while waiting and (waited := time.monotonic() - began) < _STOPPED_SECONDS:
        if waited > _DOUBTFUL_SECONDS and waiting <= doubtful:
            break
        received = comm.receive()
        if received is None:
            time.sleep(0.002)
        elif isinstance(received[1], Stopped):
            answers[received[0]] = received[1]
            waiting.discard(received[0])
    return answers


def dismiss(comm: Comm, ranks: Iterable[int]) -> None:
    """The last word to the ranks that have stopped: they may end."""
    for rank in ranks:
        comm.send(rank, Leave())
