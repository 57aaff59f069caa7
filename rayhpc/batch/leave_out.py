"""Hosts that were bad before, kept out of a job: what `rayhpc alloc submit --exclude-bad` makes of a request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rayhpc.batch import jobscript
from rayhpc.errors import configuration, shortened
from rayhpc.records import bad_hosts
from rayhpc.schedulers import commands
from rayhpc.schedulers.facts import BatchSystem, Request


def without_bad_hosts(system: BatchSystem, request: Request, script: str, tell: Callable[[str], None]) -> Request:
    """The request without the hosts that are on the list for this cluster; tells which.

    Raises RayhpcError where the scheduler has no words for it, and where it does not name its cluster.
    """
    here = bad_hosts.key(system.name, commands.cluster_here(system))
    hosts = [entry.host for entry in bad_hosts.every() if entry.cluster == here]
    if not hosts:
        return request
    if system.without_hosts is None:
        raise configuration(
            f"{system.name} has no words for hosts that a job shall not get: {shortened(hosts)}",
            next_step="name those it shall get, with PBS: --directive '-l select=1:host=node1+1:host=node2'; or take "
            "them off the list: rayhpc alloc bad --forget HOST",
        )
    tell(f"left out: {shortened(hosts)}, bad on {here} before: rayhpc alloc bad")
    text = jobscript.read(Path(script) if script else jobscript.shipped(system.script))
    return system.without_hosts(request, text, hosts)
