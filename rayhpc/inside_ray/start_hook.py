"""Called by `ray start` before it starts anything: for what its options cannot say."""

from __future__ import annotations

import os
from typing import Any

from rayhpc.inside_ray import names, node_table_server, patches


def adjust(ray_params: Any, head: bool) -> None:
    """RAY_START_HOOK: the node table for rank 0, no Ray client server, this rank's own directory, no needless waiting.

    The client server is on wherever grpcio can be imported. Ray's node takes all this from its parameters, whatever the
    command line made of them. The job's own `ray start` is no business of ours, so the variables go no further.
    """
    os.environ.pop(names.HOOK, None)
    node_table = os.environ.pop(names.NODE_TABLE)
    if head:
        node_table_server.answer(node_table)
        ray_params.ray_client_server_port = None
    elif names.VARIABLE in os.environ:
        ray_params.temp_dir = os.environ[names.VARIABLE]
    if patches.known():
        _hasten(ray_params, head)


def _hasten(ray_params: Any, head: bool) -> None:
    """With a dashboard the head's agent has work as soon as the head is up: it submits the jobs."""
    if head:
        patches.prepare_one_worker()
    if head and ray_params.include_dashboard:
        return
    patches.leave_agents_behind(ray_params)
    patches.monitor_logs_here()
    if head:
        patches.leave_out_dashboard()
