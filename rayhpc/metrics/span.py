"""When a run began and ended, by its events."""

from __future__ import annotations

import time

from rayhpc.records import runs
from rayhpc.records.runs import Run


def span(run: Run) -> tuple[float, float]:
    """Unix seconds of the run's first and last event, of now while it goes on; raises RayhpcError without any."""
    moments = [float(event["at"]) for event in runs.events(run)]
    return min(moments), max(moments) if run.code is not None else time.time()
