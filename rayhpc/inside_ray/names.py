"""How `ray start` is told to call start_hook.py, and what it is told there: names for the environment. Pure."""

from __future__ import annotations

VARIABLE = "RAYHPC_RAY_TEMP_DIR"
HOOK = "RAY_START_HOOK"
NAME = "rayhpc.inside_ray.start_hook.adjust"
# Where the head's `ray start` tells rank 0 the node table.
NODE_TABLE = "RAYHPC_NODE_TABLE"
# The label by which rayhpc finds the node of a rank in that table.
RANK_LABEL = "rayhpc-rank"


def release(ray_version: str) -> tuple[int, ...]:
    """(2, 60) of '2.60.0'."""
    return tuple(int(part) for part in ray_version.split(".")[:2])


def own_temp_dir_needed(ray_version: str) -> bool:
    """True for Ray 2.54, which takes --temp-dir on the head alone and gives a worker's up for it."""
    return release(ray_version) < (2, 55)
