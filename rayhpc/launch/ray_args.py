"""What users may say to Ray itself: custom resources, labels, further arguments of `ray start`. Pure."""

from __future__ import annotations

import json
import math
import re

from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.inside_ray.names import RANK_LABEL
from rayhpc.options import Options

_RESERVED = frozenset({"CPU", "GPU", "memory", "object_store_memory"})
# Said by rayhpc for each node; said twice, the later one would win and the cluster would not be what was agreed.
_OURS = frozenset(
    [
        "--head",
        "--address",
        "--port",
        "--node-ip-address",
        "--temp-dir",
        "--num-cpus",
        "--num-gpus",
        "--memory",
        "--object-store-memory",
        "--resources",
        "--labels",
        "--block",
        "--include-dashboard",
        "--dashboard-host",
        "--dashboard-port",
    ]
)


_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"(?:[a-z0-9.-]{{1,253}}/)?{_WORD}=(?:{_WORD})?")


def check(options: Options) -> None:
    """Raises RayhpcError, exit code 2, for resources, labels or arguments that Ray would refuse later."""
    resources(options.resources)
    for pair in options.labels.split(",") if options.labels else ():
        if not _LABEL.fullmatch(pair):
            raise _usage(f"--labels: {pair!r} is no KEY=VALUE as Ray takes it", "--labels zone=a,fast=yes")
        if pair.partition("=")[0] == RANK_LABEL:
            raise _usage(f"--labels: {RANK_LABEL} is rayhpc's own", "choose another name")
    for argument in options.ray_arg:
        name = argument.partition("=")[0]
        if not argument.startswith("--"):
            raise _usage(f"--ray-arg {argument!r} does not begin with --", "--ray-arg=--system-config={…}")
        if name in _OURS:
            raise _usage(f"--ray-arg {name} is rayhpc's own to say", f"use rayhpc's option, if there is one: {name}")


def resources(text: str) -> dict[str, float]:
    """Custom resources from JSON; raises RayhpcError for anything but an object of positive numbers."""
    try:
        parsed = json.loads(text or "{}")
    except ValueError as error:
        raise _usage(f"--resources {text!r} is no JSON: {error}", "--resources '{\"fast_disk\": 1}'") from error
    if not isinstance(parsed, dict) or not all(_is_amount(value) for value in parsed.values()):
        raise _usage(f"--resources {text!r} is no object of numbers", "--resources '{\"fast_disk\": 1}'")
    if reserved := sorted(_RESERVED & set(parsed)):
        raise _usage(f"--resources: {', '.join(reserved)} have options of their own", "--num-cpus, --num-gpus, …")
    return {key: float(value) for key, value in parsed.items()}


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)


def _usage(what: str, step: str) -> RayhpcError:
    return RayhpcError(Fault(what, ExitCode.USAGE, next_step=step))
