"""What each rank did when, from the events of a run: spans for a Gantt picture. Pure.

What a rank tells of itself (its process's start, its imports, its `ray start`) is told by its own host's clock, all
else by rank 0's: where two hosts' clocks differ by a second, so do the ends of that rank's spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# A line of events.jsonl.
Event = Mapping[str, Any]

# The stages of a rank, in the order of the story.
IMPORTS = "process, imports"
AGREEMENT = "agreement"
WAITS_FOR_HEAD = "waits for the head"
RAY_START = "ray start"
WAITS_FOR_NODES = "waits for the other nodes"
DRIVER = "driver"
HELD = "held"
AT_WORK = "node at work"
LOST = "lost"
GIVE_BACK = "give back"
STAGES = (IMPORTS, AGREEMENT, WAITS_FOR_HEAD, RAY_START, WAITS_FOR_NODES, DRIVER, HELD, AT_WORK, LOST, GIVE_BACK)

_END = ""
_HEAD_RANK = 0
# Rank 0's events that change what the others do: in which stages, and to what. After the head's, idle ranks do nothing.
_OF_ALL = {
    "agreed": ((AGREEMENT,), WAITS_FOR_HEAD),
    "head": ((WAITS_FOR_HEAD,), _END),
    "up": ((WAITS_FOR_NODES,), AT_WORK),
    "decided": (STAGES, GIVE_BACK),
    "released": (STAGES, _END),
}
# A rank's own events, and what of rank 0's is rank 0's alone.
_OWN = {"imported": AGREEMENT, "start": RAY_START, "restart": LOST, "replaced": LOST, "spare lost": LOST}
_HEADS = {"driver": DRIVER, "hold": HELD, "decided": GIVE_BACK, "released": _END}
_ALIVE = ("alive", "back")
_LOSSES = ("NodeEnded", "NodeDead", "NodeLate", "RankSilent")
# A while without a change is left out of a picture if it is longer than so many times what came before the driver; so
# much of that is shown at its ends.
_LONG = 1.5
_MARGIN = 0.15


@dataclass(frozen=True)
class Span:
    """A stage of one rank, in seconds since the first process of the run was started."""

    rank: int
    stage: str
    begin: float
    end: float


def spans(events: Sequence[Event]) -> list[Span]:
    """The stages of every rank in order; a stage lasts until the next, the last until the last event. None of none."""
    if not events:
        return []
    zero = min(float(event.get("since") or event["at"]) for event in events)
    ordered = sorted(events, key=_at)
    lead = [event for event in ordered if event["rank"] == _HEAD_RANK and event["stage"] in _OF_ALL]
    own: dict[int, list[Event]] = {}
    for event in ordered:
        own.setdefault(_whose(event), []).append(event)
    return [span for rank, mine in sorted(own.items()) for span in _of_rank(rank, mine, lead, zero, _at(ordered[-1]))]


def _at(event: Event) -> float:
    return float(event["at"])


def _whose(event: Event) -> int:
    """The rank that an event is about: rank 0 notes the losses of others."""
    about = event.get("event")
    return int(about["rank"]) if event["stage"] in _LOSSES and about else int(event["rank"])


def _of_rank(rank: int, own: Sequence[Event], lead: Sequence[Event], zero: float, last: float) -> Iterator[Span]:
    """One rank's spans, from its own events and those of rank 0 that concern all."""
    events = own if rank == _HEAD_RANK else sorted([*own, *lead], key=_at)
    for (begin, stage), (end, _) in pairwise([*_changes(rank, events), (last, _END)]):
        if stage and end > begin:
            yield Span(rank, stage, begin - zero, end - zero)


def _changes(rank: int, events: Sequence[Event]) -> Iterator[tuple[float, str]]:
    """When a rank's stages began."""
    stage, up = _END, False
    for event in events:
        if event["stage"] == "imported":
            yield float(event["since"]), IMPORTS
        up = up or event["stage"] == "up"
        after = _after(stage, event["stage"], rank, up)
        if after != stage:
            yield _at(event), after
            stage = after


def _after(stage: str, event: str, rank: int, up: bool) -> str:
    """The stage after an event; up: the cluster is complete."""
    if event in _ALIVE:
        return AT_WORK if up else WAITS_FOR_NODES
    if event in _LOSSES:
        return stage if stage == GIVE_BACK else LOST
    if event in _OWN:
        return _OWN[event]
    if rank == _HEAD_RANK:
        return _HEADS.get(event, stage)
    before, after = _OF_ALL.get(event, ((), stage))
    return after if stage in before else stage


def windows(found: Sequence[Span]) -> list[tuple[float, float]]:
    """The parts of the time that a picture shows, in seconds: without the long whiles in which nothing changes."""
    points = sorted({point for span in found for point in (span.begin, span.end)}) or [0.0]
    work = min((span.begin for span in found if span.stage in (DRIVER, HELD)), default=points[-1])
    margin = _MARGIN * work
    quiet = [(begin, end) for begin, end in pairwise(points) if work and end - begin > _LONG * work]
    begins = [points[0], *(end - margin for _, end in quiet)]
    ends = [*(begin + margin for begin, _ in quiet), points[-1]]
    return list(zip(begins, ends, strict=True))
