"""The names and the decision that rayhpc and its code inside `ray start` share. Pure but for installed_version()."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path

# 0 leaves out everything that uses Ray's private names.
SWITCH = "RAYHPC_RAY_PATCHES"
_OFF = ("0", "false", "no", "off")
# The releases of Ray whose private names were checked. With any other, nothing of Ray is changed.
FIRST, LAST = (2, 54), (2, 60)

# Ray's own variable: a function that `ray start` calls before it starts anything. HOOK_NAME is ours.
HOOK = "RAY_START_HOOK"
HOOK_NAME = "rayhpc.inside_ray.start_hook.adjust"
# What the hook reads: the --temp-dir of Ray 2.54's workers; the socket for the node table; whether the run has a
# dashboard, which only the head's command line says; whether the nodes tell their metrics.
TEMP_DIR = "RAYHPC_RAY_TEMP_DIR"
NODE_TABLE = "RAYHPC_NODE_TABLE"
DASHBOARD = "RAYHPC_RAY_DASHBOARD"
METRICS = "RAYHPC_RAY_METRICS"
# What ray.dashboard.optional_deps imports, of the packages that only ray[default] brings.
DASHBOARD_PACKAGES = ("aiohttp_cors", "grpc", "opencensus", "prometheus_client")
# The label by which rayhpc finds the node of a rank in the node table.
RANK_LABEL = "rayhpc-rank"


def release(ray_version: str) -> tuple[int, ...]:
    """(2, 60) of '2.60.0'; () of what is not a version."""
    found = re.match(r"(\d+)\.(\d+)", ray_version)
    return tuple(int(part) for part in found.groups()) if found else ()


def switched_off(environ: Mapping[str, str]) -> bool:
    """True if the user wants Ray as it is."""
    return environ.get(SWITCH, "").strip().lower() in _OFF


def patched(environ: Mapping[str, str], ray_version: str) -> bool:
    """True if Ray's private names may be used: the switch is on and the release was checked."""
    return not switched_off(environ) and FIRST <= release(ray_version) <= LAST


def installed_version() -> str:
    """The version of the Ray that `import ray` would find, without that import; empty if there is none."""
    found = PathFinder.find_spec("ray")
    try:
        text = Path(found.origin).with_name("_version.py").read_text() if found and found.origin else ""
    except OSError:
        return ""
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return version[1] if version else ""


def temp_dir_needs_hook(ray_version: str) -> bool:
    """True for Ray 2.54, whose workers ignore --temp-dir and use the head's."""
    return release(ray_version) < (2, 55)
