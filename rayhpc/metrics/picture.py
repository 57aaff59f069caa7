"""The picture of a run's metrics: a column for each of CPUs, GPUs, memory, object store and network; rows are hosts."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayhpc.errors import configuration
from rayhpc.metrics.questions import Prometheus, Series
from rayhpc.records import plots

# More hosts than these are shown as bands.
MOST_HOSTS = 16
_POINTS = 240
_COLOUR = "#2f6fb5"
# In inches.
_WIDTH, _ROW, _BAND, _FRAME = 12.0, 1.0, 2.6, 1.2
_SHARE = 100.0

Samples = Mapping[float, float]


@dataclass(frozen=True)
class Measure:
    """A column: what is asked, how its values are written, and the top of its axis where that is known."""

    title: str
    query: str
    scale: float = 1.0
    top: float | None = None


MEASURES = (
    Measure("CPUs busy, %", "max by (host) (ray_node_cpu_utilization)", top=_SHARE),
    Measure("GPUs busy, %", "avg by (host) (ray_node_gpus_utilization)", top=_SHARE),
    Measure("memory used, GiB", "max by (host) (ray_node_mem_used)", scale=2**30),
    Measure("object store, GiB", 'sum by (host) (ray_object_store_memory{Location=~"MMAP.*"})', scale=2**30),
    Measure(
        "network, MB/s",
        "max by (host) (ray_node_network_send_speed) + max by (host) (ray_node_network_receive_speed)",
        scale=1e6,
    ),
)


def draw(prometheus: Prometheus, begin: float, end: float, title: str) -> bytes:
    """A PNG of what the hosts did from begin to end; raises RayhpcError without matplotlib or samples."""
    columns = _columns(prometheus, begin, end)
    if not columns:
        raise configuration(
            "this run has kept metrics files, but no samples", "the first ones come some 10 s after its start",
            next_step="targets.json and prometheus.log beside them say whom it asked",
        )  # fmt: skip
    pyplot = plots.pyplot("pip install 'rayhpc[metrics]', or ask for --query PROMQL")
    hosts = sorted({host for _, found in columns for host in found})
    rows: Sequence[str | None] = hosts if len(hosts) <= MOST_HOSTS else [None]
    figure, panels = pyplot.subplots(
        len(rows), len(columns), figsize=(_WIDTH, _FRAME + (_ROW * len(rows) if rows[0] else _BAND)),
        sharex=True, sharey="col", squeeze=False, layout="constrained",
    )  # fmt: skip
    try:
        for place, (measure, found) in enumerate(columns):
            for row, host in enumerate(rows):
                _fill(panels[row][place], found, host, begin)
            _label(panels[0][place], panels[-1][place], measure, found)
        for row, host in enumerate(rows):
            name = host or f"{len(hosts)} hosts:\nmedian, middle\nhalf and range"
            panels[row][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        panels[0][0].set_xlim(0, (end - begin) / 60)
        figure.suptitle(title, fontsize=10)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=130, format="png")
        return picture.getvalue()
    finally:
        pyplot.close(figure)


def _columns(prometheus: Prometheus, begin: float, end: float) -> list[tuple[Measure, dict[str, Samples]]]:
    """Each measure of which there is anything, with each host's samples."""
    step = max(1.0, (end - begin) / _POINTS)
    asked = ((measure, prometheus.between(measure.query, begin, end, step)) for measure in MEASURES)
    return [(measure, {_host(one): _scaled(one, measure) for one in series}) for measure, series in asked if series]


def _host(series: Series) -> str:
    return series.labels.get("host", "")


def _scaled(series: Series, measure: Measure) -> Samples:
    return {at: value / measure.scale for at, value in series.samples}


def _fill(panel: Any, found: Mapping[str, Samples], host: str | None, begin: float) -> None:
    """The line of a host, or the bands of all."""
    if host is not None:
        samples = found.get(host, {})
        minutes, values = [(at - begin) / 60 for at in samples], list(samples.values())
        panel.fill_between(minutes, values, color=_COLOUR, alpha=0.25, linewidth=0)
        panel.plot(minutes, values, color=_COLOUR, linewidth=1.2)
    else:
        _bands(panel, found, begin)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def _bands(panel: Any, found: Mapping[str, Samples], begin: float) -> None:
    moments = sorted({at for samples in found.values() for at in samples})
    at_once = [sorted(samples[at] for samples in found.values() if at in samples) for at in moments]
    minutes = [(at - begin) / 60 for at in moments]

    def part(share: float) -> list[float]:
        return [values[round(share * (len(values) - 1))] for values in at_once]

    panel.fill_between(minutes, part(0.0), part(1.0), color=_COLOUR, alpha=0.15, linewidth=0)
    panel.fill_between(minutes, part(0.25), part(0.75), color=_COLOUR, alpha=0.35, linewidth=0)
    middle: Callable[[Sequence[float]], float] = statistics.median
    panel.plot(minutes, [middle(values) for values in at_once], color=_COLOUR, linewidth=1.5)


def _label(first: Any, last: Any, measure: Measure, found: Mapping[str, Samples]) -> None:
    most = max((value for samples in found.values() for value in samples.values()), default=0.0)
    first.set_title(measure.title, fontsize=10)
    first.set_ylim(0, measure.top or max(1.05 * most, 0.01))
    last.set_xlabel("minutes", fontsize=9)
