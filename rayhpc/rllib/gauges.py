"""The training's progress among the metrics of the run, where it was started with --metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayhpc import driver_api
from rayhpc.rllib.metrics import Row
from rayhpc.rllib.training import Training, Watcher

# The directory that a run with --metrics has.
_METRICS = "metrics"
# The name of each, of which Ray makes ray_rayhpc_…, and what it says.
_GAUGES = {
    "return_mean": "Mean return of the last 100 episodes.",
    "steps_per_second": "Environment steps per second in the last iteration.",
    "timesteps": "Environment steps so far.",
}


def watchers() -> list[Watcher]:
    """One that tells Ray of each iteration; none outside of a run with --metrics. Wants ray.init() before."""
    run_dir = driver_api.run_dir()
    if run_dir is None or not (run_dir / _METRICS).is_dir():
        return []
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(f"rayhpc_{name}", description=text) for name, text in _GAUGES.items()}

    def tell(_: Training, row: Row, __: Mapping[str, Any]) -> None:
        for name, gauge in gauges.items():
            value = float(getattr(row, name))
            if not math.isnan(value):
                gauge.set(value)

    return [Watcher(tell, lambda: None)]
