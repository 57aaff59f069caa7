"""The commands of docs/kubernetes.md."""

from __future__ import annotations

from pathlib import Path

from tests.unit.project.test_docs import commands

PAGE = Path(__file__).parents[3] / "docs" / "kubernetes.md"


def on_the_page(*beginning: str) -> list[str]:
    """The words, behind `rayhpc`, of the first command of the page that begins so."""
    found = [words[1:] for words in commands(PAGE.read_text())]
    return next(words for words in found if words[: len(beginning)] == [*beginning])
