"""What each rank did when, from events; which parts of the time a picture shows."""

from __future__ import annotations

from typing import Any

import pytest

from rayhpc.records import timeline
from rayhpc.records.timeline import (
    AGREEMENT,
    AT_WORK,
    DRIVER,
    GIVE_BACK,
    HELD,
    IMPORTS,
    LOST,
    RAY_START,
    WAITS_FOR_HEAD,
    WAITS_FOR_NODES,
)
from tests.unit.making import story_events as story
from tests.unit.making import timeline_event as event


def stages(events: list[dict[str, Any]], rank: int) -> list[tuple[str, float, float]]:
    found = [span for span in timeline.spans(events) if span.rank == rank]
    return [(span.stage, round(span.begin, 2), round(span.end, 2)) for span in found]


def test_the_stages_of_the_head() -> None:
    assert stages(story(), 0) == [
        (IMPORTS, 0.5, 1.0), (AGREEMENT, 1.0, 2.1), (RAY_START, 2.1, 5.0), (WAITS_FOR_NODES, 5.0, 8.1),
        (DRIVER, 8.1, 20.0), (GIVE_BACK, 20.0, 20.4),
    ]  # fmt: skip


def test_the_stages_of_workers_of_which_the_last_ends_the_wait() -> None:
    before = [(IMPORTS, 0.0, 1.5), (AGREEMENT, 1.5, 2.0), (WAITS_FOR_HEAD, 2.0, 5.0), (RAY_START, 5.1, 7.0)]
    after = [(AT_WORK, 8.0, 20.0), (GIVE_BACK, 20.0, 20.4)]
    assert stages(story(), 1) == [*before, (WAITS_FOR_NODES, 7.0, 8.0), *after]
    assert stages(story(), 2) == [*before[:3], (RAY_START, 5.1, 8.0), *after]


def test_no_event_no_span() -> None:
    assert timeline.spans([]) == []
    assert timeline.windows([]) == [(0.0, 0.0)]


def test_the_order_of_the_lines_does_not_matter() -> None:
    assert timeline.spans(story()[::-1]) == timeline.spans(story())


def test_a_node_that_never_joined_starts_until_the_end() -> None:
    events = [entry for entry in story() if (entry["stage"], entry["rank"]) not in {("alive", 2), ("up", 0)}]
    events = [entry for entry in events if entry["stage"] != "driver"]
    assert stages(events, 2)[-2:] == [(RAY_START, 5.1, 20.0), (GIVE_BACK, 20.0, 20.4)]


def test_a_node_that_joins_late_works_at_once() -> None:
    events = [entry for entry in story() if (entry["stage"], entry["rank"]) != ("alive", 2)]
    assert stages([*events, event(12.0, "alive", 2)], 2)[3:5] == [(RAY_START, 5.1, 12.0), (AT_WORK, 12.0, 20.0)]


@pytest.mark.parametrize("kind", ["NodeEnded", "NodeDead", "NodeLate", "RankSilent"])
def test_a_loss_that_rank_0_notes_is_the_others(kind: str) -> None:
    events = [*story(), {**event(12.0, kind, 0), "event": {"rank": 1}}]
    assert stages(events, 1)[-3:] == [(AT_WORK, 8.0, 12.0), (LOST, 12.0, 20.0), (GIVE_BACK, 20.0, 20.4)]
    assert stages(events, 0) == stages(story(), 0)


def test_a_spare_that_takes_a_lost_nodes_place() -> None:
    spare = [event(1.5, "imported", 3, since=100.0), event(12.1, "start", 3), event(15.0, "alive", 3)]
    events = [*story(), event(12.0, "replaced", 1), *spare]
    assert stages(events, 1)[-2:] == [(LOST, 12.0, 20.0), (GIVE_BACK, 20.0, 20.4)]
    assert stages(events, 3)[2:] == [
        (WAITS_FOR_HEAD, 2.0, 5.0), (RAY_START, 12.1, 15.0), (AT_WORK, 15.0, 20.0), (GIVE_BACK, 20.0, 20.4)
    ]  # fmt: skip


def test_a_node_that_is_started_again() -> None:
    events = [*story(), event(12.0, "restart", 1), event(12.5, "start", 1), event(15.0, "back", 1)]
    assert stages(events, 1)[-5:] == [
        (AT_WORK, 8.0, 12.0), (LOST, 12.0, 12.5), (RAY_START, 12.5, 15.0), (AT_WORK, 15.0, 20.0),
        (GIVE_BACK, 20.0, 20.4),
    ]  # fmt: skip


def test_an_end_in_the_teardown_is_no_loss() -> None:
    events = [*story(), {**event(20.2, "NodeEnded", 1), "event": {"rank": 1}}]
    assert stages(events, 1) == stages(story(), 1)


def test_a_rank_without_a_node_idles() -> None:
    events = [entry for entry in story() if entry["rank"] != 1 or entry["stage"] == "imported"]
    assert stages(events, 1) == [(IMPORTS, 0.0, 1.5), (AGREEMENT, 1.5, 2.0), (WAITS_FOR_HEAD, 2.0, 5.0)]


def test_a_head_that_never_came_up() -> None:
    events = [entry for entry in story() if entry["at"] < 105.0 or entry["stage"] in ("decided", "released")]
    assert stages(events, 0)[-2:] == [(RAY_START, 2.1, 20.0), (GIVE_BACK, 20.0, 20.4)]
    assert stages(events, 1)[-2:] == [(WAITS_FOR_HEAD, 2.0, 20.0), (GIVE_BACK, 20.0, 20.4)]


def test_a_run_that_goes_on_ends_with_what_was_heard_last() -> None:
    events = [entry for entry in story() if entry["at"] <= 107.0]
    assert stages(events, 1)[-1] == (RAY_START, 5.1, 7.0)
    assert stages(events, 2)[-1] == (RAY_START, 5.1, 7.0)


def test_a_held_cluster() -> None:
    events = [{**entry, "stage": "hold"} if entry["stage"] == "driver" else entry for entry in story()]
    assert (HELD, 8.1, 20.0) in stages(events, 0)


def test_a_short_run_is_shown_whole() -> None:
    assert timeline.windows(timeline.spans(story())) == [(0.0, pytest.approx(20.4))]


def test_a_long_run_is_shown_at_its_ends_and_where_something_happens() -> None:
    late = [{**entry, "at": entry["at"] + 1000} if entry["at"] > 119 else entry for entry in story()]
    margin = 0.15 * 8.1
    ends = [(0.0, 8.1 + margin), (1020.0 - margin, 1020.4)]
    assert timeline.windows(timeline.spans(late)) == [pytest.approx(end) for end in ends]
    lost = [*late, event(500.0, "restart", 1), event(501.0, "start", 1), event(505.0, "back", 1)]
    middle = (500.0 - margin, 505.0 + margin)
    assert timeline.windows(timeline.spans(lost)) == [pytest.approx(part) for part in (ends[0], middle, ends[1])]
