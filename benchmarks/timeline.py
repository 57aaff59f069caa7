"""The timeline of a run, drawn from its events.jsonl: python -m benchmarks.timeline EVENTS.jsonl OUTPUT.png."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    """A stage of one rank, in seconds since the first event."""

    rank: int
    stage: str
    begin: float
    end: float


# What goes on between one of rank 0's milestones and the next.
_LEADS = {"agreed": "introduce", "start": "head starts", "head": "nodes join", "up": "accept", "driver": "driver"}
_LEADS |= {"decided": "give back", "hold": "hold"}


def spans(events: Sequence[dict[str, Any]]) -> list[Span]:
    """The stages of every rank; a stage lasts until the next of rank 0's, a worker's start until all are up."""
    zero = min(event["at"] for event in events)
    lead = [event for event in events if event["rank"] == 0 and event["stage"] in {*_LEADS, "released"}]
    lead.sort(key=lambda event: event["at"])
    found = [Span(0, _LEADS[one["stage"]], one["at"] - zero, two["at"] - zero) for one, two in pairwise(lead)]
    ends = {event["stage"]: event["at"] - zero for event in lead}
    for event in events:
        if event["rank"] and event["stage"] == "start":
            begin = event["at"] - zero
            up, decided = ends.get("up", ends.get("decided", begin)), ends.get("decided", begin)
            found += [Span(event["rank"], "node joins", begin, up), Span(event["rank"], "node works", up, decided)]
    return found


def draw(events: Sequence[dict[str, Any]], file: Path) -> None:
    """A row for each rank, a colour for each stage, the seconds in those that are long enough."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = spans(events)
    hosts = {event["rank"]: event["host"] for event in events}
    stages = list(dict.fromkeys(span.stage for span in found))
    length = max(span.end for span in found)
    figure, panel = pyplot.subplots(figsize=(11, 1.6 + 0.4 * len(hosts)), layout="constrained")
    for number, stage in enumerate(stages):
        own = [span for span in found if span.stage == stage]
        widths = [span.end - span.begin for span in own]
        bars = panel.barh([span.rank for span in own], widths, left=[span.begin for span in own], height=0.7,
                          color=f"C{number}", label=stage)  # fmt: skip
        panel.bar_label(bars, [f"{width:.1f}" if width > length / 30 else "" for width in widths], label_type="center",
                        fontsize=8, color="white")  # fmt: skip
    panel.set_yticks(sorted(hosts), [f"rank {rank}, {hosts[rank]}" for rank in sorted(hosts)])
    panel.invert_yaxis()
    panel.set_xlabel("seconds since the ranks agreed")
    panel.legend(fontsize=8, ncols=len(stages), loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Draw the run named on the command line."""
    source, target = map(Path, sys.argv[1:3])
    draw([json.loads(line) for line in source.read_text().splitlines()], target)


if __name__ == "__main__":
    main()
