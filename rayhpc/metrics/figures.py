"""What a run did to its hosts, as figures: how busy CPUs and GPUs were, the peaks, CPU hours used and granted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayhpc.metrics.questions import Prometheus

# Several nodes of a host tell the same of it: the larger one counts. A component of Ray is one of its processes, or all
# workers of a kind.
_CPU_BUSY = "avg(max by (host) (avg_over_time(ray_node_cpu_utilization[{window}]))) / 100"
_GPU_BUSY = "avg(max by (host, GpuIndex) (avg_over_time(ray_node_gpus_utilization[{window}]))) / 100"
_CPUS_USED = "avg_over_time(sum(ray_component_cpu_percentage)[{window}:{step}]) / 100"
_PEAK_MEMORY = "max by (host) (max_over_time(ray_node_mem_used[{window}]))"
_PEAK_STORE = 'sum by (host) (max_over_time(ray_object_store_memory{{Location=~"MMAP.*"}}[{window}]))'
# At so many moments the sum over all processes is taken; in a short run a second apart.
_STEPS = 1000


def of_run(prometheus: Prometheus, cpus: int, begin: float, end: float) -> dict[str, Any]:
    """The figures of a run that had so many CPUs from begin to end; raises OSError.

    Shares are of 1, memory is in bytes; None where nothing was measured: the first samples come after some 10 s.
    """
    seconds = max(1, math.ceil(end - begin))
    times = {"window": f"{seconds}s", "step": f"{math.ceil(seconds / _STEPS)}s"}

    def one(query: str) -> float | None:
        found = prometheus.at(query.format(**times), end)
        return found[0].last if found and math.isfinite(found[0].last) else None

    def by_host(query: str) -> dict[str, int]:
        found = prometheus.at(query.format(**times), end)
        return {series.labels.get("host", ""): int(series.last) for series in found}

    used, hours = one(_CPUS_USED), (end - begin) / 3600
    return {
        "cpu_utilisation": _rounded(one(_CPU_BUSY)),
        "gpu_utilisation": _rounded(one(_GPU_BUSY)),
        "cpu_hours_used": None if used is None else _rounded(used * hours, 6),
        "cpu_hours_granted": _rounded(cpus * hours),
        "peak_memory": by_host(_PEAK_MEMORY),
        "peak_object_store": by_host(_PEAK_STORE),
    }


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def in_words(figures: Mapping[str, Any]) -> str:
    """The figures in a line; empty where nothing was measured."""
    if figures.get("cpu_utilisation") is None:
        return ""
    gpus = "" if figures["gpu_utilisation"] is None else f", GPUs {figures['gpu_utilisation']:.0%}"
    peak = max(figures["peak_memory"].values(), default=0)
    used, granted = figures["cpu_hours_used"] or 0.0, figures["cpu_hours_granted"]
    return (
        f"hosts' CPUs {figures['cpu_utilisation']:.0%} busy{gpus}; {used:.2f} of {granted:.2f} CPU hours used;"
        f" at most {peak / 2**30:.1f} GiB of memory on a host"
    )
