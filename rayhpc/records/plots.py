"""Pictures of runs. The only owner of matplotlib, which may be missing."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayhpc.errors import configuration
from rayhpc.records import timeline
from rayhpc.records.timeline import Span

_COLOURS = {
    timeline.IMPORTS: "#7a8ca3",
    timeline.AGREEMENT: "#8e6bbf",
    timeline.WAITS_FOR_HEAD: "#e6e6e6",
    timeline.RAY_START: "#e8833a",
    timeline.WAITS_FOR_NODES: "#d0d5da",
    timeline.DRIVER: "#2f7d4f",
    timeline.HELD: "#2f7d4f",
    timeline.AT_WORK: "#9cc9a9",
    timeline.LOST: "#c22f2f",
    timeline.GIVE_BACK: "#3b6fb5",
}
_DARK = (timeline.IMPORTS, timeline.AGREEMENT, timeline.DRIVER, timeline.HELD, timeline.LOST, timeline.GIVE_BACK)
# In inches; of a height that fits a page, whatever the number of rows.
_WIDTH, _ROW, _TEXT, _MOST, _FRAME = 11.0, 0.42, 0.17, 12.0, 1.3
# A bar narrower than this part of the picture has no room for its seconds.
_ROOM = 0.024


def draw_timeline(found: Sequence[Span], hosts: Mapping[int, str], title: str) -> bytes:
    """A PNG with a row for each rank, a colour for each stage, and seconds; raises RayhpcError without matplotlib.

    Long whiles in which nothing changes are left out.
    """
    drawing = pyplot("pip install 'rayhpc[rllib]', or plot where it is installed: the run directory is enough")
    shown = timeline.windows(found)
    widths = [end - begin for begin, end in shown]
    figure, panels = drawing.subplots(
        1, len(shown), figsize=(_WIDTH, _FRAME + _height(len(hosts))), sharey=True, squeeze=False,
        width_ratios=widths, layout="constrained",
    )  # fmt: skip
    try:
        for panel, window in zip(panels[0], shown, strict=True):
            _bars(panel, found, window, sum(widths), _height(len(hosts)) / len(hosts) >= _TEXT)
        _name_rows(panels[0][0], hosts)
        _break_axis(panels[0])
        _explain(figure, panels[0])
        figure.supxlabel(f"seconds since the first process was started   ({title})", fontsize=9)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=130, format="png")
        return picture.getvalue()
    finally:
        drawing.close(figure)


def pyplot(next_step: str) -> Any:
    """matplotlib, for files alone; raises RayhpcError without it."""
    try:
        import matplotlib
    except ImportError as error:
        raise configuration(
            "pictures need matplotlib, which is not installed here", str(error),
            next_step=next_step,
        ) from error  # fmt: skip
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def _height(rows: int) -> float:
    return min(_ROW * rows, _MOST)


def _bars(panel: Any, found: Sequence[Span], window: tuple[float, float], total: float, tall: bool) -> None:
    """The spans of one part of the time; total: seconds of all parts; tall: a row is as tall as a number."""
    begin, end = window
    for stage in timeline.STAGES:
        own = [span for span in found if span.stage == stage and span.begin < end and span.end > begin]
        if not own:
            continue
        left = [max(span.begin, begin) for span in own]
        widths = [min(span.end, end) - start for span, start in zip(own, left, strict=True)]
        rows, height = [span.rank for span in own], 0.8 if tall else 1.0
        bars = panel.barh(rows, widths, left=left, height=height, color=_COLOURS[stage], label=stage)
        seconds = [
            f"{span.end - span.begin:.1f}" if tall and span.begin >= begin and width > _ROOM * total else ""
            for span, width in zip(own, widths, strict=True)
        ]
        panel.bar_label(bars, seconds, label_type="center", fontsize=8, color="white" if stage in _DARK else "black")
    panel.set_xlim(begin, end)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _name_rows(panel: Any, hosts: Mapping[int, str]) -> None:
    """Names of ranks and hosts, as many as can be read."""
    ranks = sorted(hosts)
    step = math.ceil(len(ranks) * _TEXT / _height(len(ranks)))
    named = ranks[::step]
    panel.set_yticks(named, [f"rank {rank}, {hosts[rank]}" for rank in named])
    panel.set_ylim(max(ranks) + 0.6, min(ranks) - 0.6)


def _explain(figure: Any, panels: Sequence[Any]) -> None:
    """What the colours mean, in the order of the story."""
    pairs = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    bars = {name: bar for bar, name in pairs}
    names = [stage for stage in timeline.STAGES if stage in bars]
    figure.legend([bars[name] for name in names], names, loc="outside upper center", ncols=len(names), fontsize=8,
                  frameon=False)  # fmt: skip


def _break_axis(panels: Sequence[Any]) -> None:
    """Where a part of the time is left out, no axis joins the rest."""
    for panel in panels[1:]:
        panel.spines["left"].set_linestyle((0, (1, 3)))
        panel.tick_params(axis="y", length=0)
    for panel in panels[:-1]:
        panel.spines["right"].set_visible(True)
        panel.spines["right"].set_linestyle((0, (1, 3)))
