"""Called by `ray start` before it starts anything: for what its options cannot say."""

from __future__ import annotations

import os
from typing import Any

from rayhpc import rayhaste

VARIABLE = "RAYHPC_RAY_TEMP_DIR"
HOOK = "RAY_START_HOOK"
NAME = f"{__name__}.adjust"


def own_temp_dir_needed(ray_version: str) -> bool:
    """True for Ray 2.54, which takes --temp-dir on the head alone and gives a worker's up for it."""
    return rayhaste.release(ray_version) < (2, 55)


def adjust(ray_params: Any, head: bool) -> None:
    """RAY_START_HOOK: no Ray client server, this rank's own directory, and no waiting for what nobody needs yet.

    The client server is on wherever grpcio can be imported. Ray's node takes all this from its parameters, whatever the
    command line made of them. The job's own `ray start` is no business of ours, so the variable goes no further.
    """
    os.environ.pop(HOOK, None)
    if head:
        ray_params.ray_client_server_port = None
    elif VARIABLE in os.environ:
        ray_params.temp_dir = os.environ[VARIABLE]
    if rayhaste.known(_version()):
        _hasten(ray_params, head)


def _version() -> str:
    import ray

    return str(ray.__version__)


def _hasten(ray_params: Any, head: bool) -> None:
    """With a dashboard the head's agent has work as soon as the head is up: it submits the jobs."""
    if head and ray_params.include_dashboard:
        return
    rayhaste.leave_agents_behind(ray_params)
    rayhaste.monitor_logs_here()
    if head:
        rayhaste.leave_out_dashboard()
