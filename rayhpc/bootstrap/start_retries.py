"""When a Ray node, the head's or a worker's, is started again after a start that failed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rayhpc.bootstrap.shortage import shortage

# How often a node is started in all, before its end counts.
MOST_STARTS = 3
# Ends of a start that say nothing about the next one, and Ray's messages for them: another program bound the port
# meanwhile; the host was too slow for the 30 s that the raylet and the command line give each other.
PORT_TAKEN = "port taken"
REASONS = {
    PORT_TAKEN: "Address already in use",
    "too slow for Ray's agents": "Timed out waiting for file",
    "too slow for Ray's command line": "timed out during startup",
}


def reason_to_retry(starts: int, log: Iterable[str], port_is_fixed: bool) -> str:
    """Why a node that ended is started once more: one of REASONS; empty where it is not.

    starts: how often it was started; log: the last lines of its logs; port_is_fixed: it must have the port of --port.
    """
    if not 0 < starts < MOST_STARTS:
        return ""
    lines = list(log)
    if shortage(lines):
        return ""  # what was refused once will be again
    reason = next((why for why, text in REASONS.items() if any(text in line for line in lines)), "")
    return "" if reason == PORT_TAKEN and port_is_fixed else reason
