"""Called by `ray start` before it starts anything: for what its options cannot say."""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "RAYHPC_RAY_TEMP_DIR"
HOOK = "RAY_START_HOOK"
NAME = f"{__name__}.adjust"


def own_temp_dir_needed(ray_version: str) -> bool:
    """True for Ray 2.54, which takes --temp-dir on the head alone and gives a worker's up for it."""
    major, minor = (int(part) for part in ray_version.split(".")[:2])
    return (major, minor) < (2, 55)


def adjust(ray_params: Any, head: bool) -> None:
    """RAY_START_HOOK: no Ray client server, which is on wherever grpcio can be imported; this rank's own directory.

    Ray's node takes both from its parameters, whatever the command line made of them. The job's own `ray start` is no
    business of ours, so the variable goes no further.
    """
    os.environ.pop(HOOK, None)
    if head:
        ray_params.ray_client_server_port = None
    elif VARIABLE in os.environ:
        ray_params.temp_dir = os.environ[VARIABLE]
