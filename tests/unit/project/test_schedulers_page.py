"""docs/schedulers.md is what the suite of all schedulers asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.schedulers import sites, table, test_all

ROOT = Path(__file__).parents[3]


def test_the_page_is_current() -> None:
    """`python -m tests.schedulers.table > docs/schedulers.md` makes it."""
    assert (ROOT / "docs/schedulers.md").read_text() == table.page()


def test_every_thing_is_asked_of_some_scheduler_and_said_in_words() -> None:
    things = table.things(test_all)
    assert len(things) >= 8
    assert all(table.asked(test) <= set(sites.ALL) and table.asked(test) and test.__doc__ for _, test in things)


@pytest.mark.parametrize(("asked", "shown"), table.ELSEWHERE.items())
def test_what_is_asked_elsewhere_is_there(asked: tuple[str, str], shown: tuple[str, str]) -> None:
    assert asked[0] in dict(table.things(test_all))
    file, _, name = shown[1].partition("::")
    assert f"def {name}(" in (ROOT / file).read_text()
