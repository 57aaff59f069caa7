"""How a trial reports: a line of JSON for each report, appended to the file that RAYHPC_TRIAL_METRICS names."""

from __future__ import annotations

import json
import os

VARIABLE = "RAYHPC_TRIAL_METRICS"


def report(**metrics: float) -> None:
    """Append one report, e.g. report(step=3, reward=17.5); without a sweep around it, do nothing.

    In a shell: echo '{"step": 3, "reward": 17.5}' >> "$RAYHPC_TRIAL_METRICS"
    """
    file = os.environ.get(VARIABLE)
    if file:
        # One write in append mode: the lines of several processes do not mix.
        with open(file, "a", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write(json.dumps(metrics) + "\n")
