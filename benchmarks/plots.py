"""The pictures: contenders side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import Row, place_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (("first_task", "time to first task"), ("job", "whole job"), ("release", "time to release"))


@dataclass(frozen=True)
class Bar:
    """One contender at one number of nodes: the median, and what lies below and above it."""

    group: int
    contender: str
    height: float
    below: float
    above: float


def bars(table: Sequence[Row], place: str, metric: str) -> list[Bar]:
    """The bars of one panel; a contender without a figure has none."""
    sizes = sorted({row.nodes for row in table if row.place == place})
    return [
        Bar(
            sizes.index(row.nodes),
            row.contender,
            spread.median,
            spread.median - spread.low,
            spread.high - spread.median,
        )
        for row in table
        if row.place == place and (spread := row.seconds[metric]) is not None
    ]


def draw(table: Sequence[Row], place: str, file: Path) -> None:
    """A panel for each metric, a group of bars for each number of nodes; whiskers from the least to the greatest."""
    from matplotlib import pyplot

    made = picture(table, place)
    made.savefig(file, dpi=120)
    pyplot.close(made)


def picture(table: Sequence[Row], place: str) -> Figure:
    """What draw() saves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({row.nodes for row in table if row.place == place})
    shown = [(metric, title) for metric, title in _PANELS if bars(table, place, metric)]
    names = list(dict.fromkeys(row.contender for row in table if row.place == place))
    width = max(4.5, 0.3 * len(names) * len(sizes))  # so wide that a label does not reach the next bar
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(width * len(shown), 4.2), layout="constrained", squeeze=False
    )
    for panel, (metric, title) in zip(panels[0], shown, strict=True):
        _draw_bars(panel, bars(table, place, metric), names)
        panel.set_title(title)
        panel.set_xticks(range(len(sizes)), [place_name(place, size) for size in sizes])
        _scale(panel)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=8)
    return figure


def _draw_bars(panel: Axes, found: Sequence[Bar], names: Sequence[str]) -> None:
    """The bars of one panel, each with its median above its whisker."""
    width = 0.86 / len(names)
    for place_in_group, name in enumerate(names):
        own = [bar for bar in found if bar.contender == name]
        drawn = panel.bar(
            [bar.group + (place_in_group - (len(names) - 1) / 2) * width for bar in own],
            [bar.height for bar in own], width, label=name, capsize=2,
            yerr=[[bar.below for bar in own], [bar.above for bar in own]],
        )  # fmt: skip
        panel.bar_label(drawn, [f"{bar.height:.1f}" for bar in own], fontsize=6.5, padding=2)


def _scale(panel: Axes) -> None:
    """A logarithmic axis that says so, with room for the labels above."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_yscale("log")
    panel.set_ylabel("seconds, logarithmic scale", fontsize=8)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter("{x:g}")
    panel.tick_params(axis="y", which="both", labelsize=8)
    panel.set_axisbelow(True)
    panel.grid(axis="y", alpha=0.3)
    low, high = panel.get_ylim()
    panel.set_ylim(low, high * 1.15)


def draw_growth(numbers: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]], file: Path) -> None:
    """A panel for each title, a line for each name, both axes logarithmic; the number of ranks to the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.7 * len(panels), 4.6), layout="constrained")
    for panel, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, figures in lines.items():
            panel.plot(numbers, figures, marker="o", markersize=4, label=name)
        panel.set_title(title, fontsize=10)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(numbers, [str(number) for number in numbers])
        panel.set_xlabel("ranks, logarithmic scale", fontsize=9)
        panel.set_ylabel("logarithmic scale", fontsize=8)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper left")
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** 0.35)  # room for the names
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
