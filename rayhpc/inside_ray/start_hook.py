"""Called by `ray start` before it starts anything: for what its options cannot say."""

from __future__ import annotations

import os
from typing import Any

from rayhpc.inside_ray import names, node_table_server, patches


def adjust(ray_params: Any, head: bool) -> None:
    """RAY_START_HOOK: no Ray client server, this rank's own directory, and the patches if they fit this Ray.

    The client server is on wherever grpcio can be imported. Ray's node takes all this from its parameters, whatever the
    command line made of them. A `ray start` of the user's own driver must not inherit the variables.
    """
    import ray

    os.environ.pop(names.HOOK, None)
    node_table, dashboard = os.environ.pop(names.NODE_TABLE, ""), bool(os.environ.pop(names.DASHBOARD, ""))
    metrics = bool(os.environ.pop(names.METRICS, ""))
    if head:
        ray_params.ray_client_server_port = None
    elif names.TEMP_DIR in os.environ:
        ray_params.temp_dir = os.environ[names.TEMP_DIR]
    if names.patched(os.environ, ray.__version__):
        if node_table:
            node_table_server.answer(node_table)
        patches.leave_agents_behind(ray_params, dashboard or metrics)
        apply_patches(head, dashboard)


def apply_patches(head: bool, dashboard: bool) -> None:
    """Change what this `ray start` does; dashboard: the run has one."""
    patches.monitor_logs_here()
    if head:
        patches.prepare_one_worker()
        if dashboard:
            patches.start_dashboard_late()
        else:
            patches.replace_dashboard()
