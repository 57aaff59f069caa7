"""Called by `ray start` of Ray 2.54, which gives a worker's --temp-dir up for the head's: we want one for each rank.

Since Ray 2.55 the option holds for every node, and this is not used.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "RAYHPC_RAY_TEMP_DIR"
NAME = f"{__name__}.own_temp_dir"


def needed(ray_version: str) -> bool:
    """True for a Ray that takes --temp-dir on the head alone."""
    major, minor = (int(part) for part in ray_version.split(".")[:2])
    return (major, minor) < (2, 55)


def own_temp_dir(ray_params: Any, head: bool) -> None:
    """RAY_START_HOOK: Ray's node takes the directory from its parameters, whatever the command line made of it."""
    if not head:
        ray_params.temp_dir = os.environ[VARIABLE]
