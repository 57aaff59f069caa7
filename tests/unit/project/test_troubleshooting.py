"""docs/troubleshooting.md: every error of the product has its heading, and every heading is an error of the product."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.project.messages import GAP, messages

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
HEADINGS = re.findall(r"^### `(.+)`$", PAGE.read_text(), re.MULTILINE)
# Texts that are another's words.
OTHERS_WORDS = {GAP, f"{GAP}: {GAP}", f"{GAP} {GAP}: {GAP}"}
# Put together in a way that messages.py does not read: {text of the source: its forms}.
FORMS = {
    "… … …": (
        "… refused the job",
        "… printed no job id",
        "… refused to end …",
        "… refused to tell the jobs' states",
        "… refused to name the cluster",
    )
}


def jobscript_messages() -> list[str]:
    """What a jobscript says before it fails, with … for variables and commands."""
    scripts = [*(ROOT / "jobscripts").iterdir(), *(ROOT / "rayhpc" / "containers").iterdir()]
    texts = [script.read_text() for script in scripts]
    found = [text for script in texts for text in re.findall(r'fail "((?:\$\([^"]*"[^"]*"[^"]*\)|[^"])*)"', script)]
    return [re.sub(r"\$\(.*\)|\$\{[^}]*\}|\$\w+", GAP, text) for text in found]


def texts() -> dict[str, str]:
    """{text: where} of all errors."""
    found = {entry.text: entry.place for entry in messages()} | dict.fromkeys(jobscript_messages(), "jobscripts")
    forms = {form: found[text] for text, made in FORMS.items() for form in made}
    return {text: place for text, place in (found | forms).items() if text not in FORMS and text not in OTHERS_WORDS}


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, text.split(GAP))))


def test_the_source_is_read() -> None:
    found = {message.text for message in messages()}
    assert len(found) > 150
    assert {  # a plain text, one of a helper's, of two branches, of a function's results, of an exception's subclass
        "the driver … is a directory",
        "--ray-arg … does not begin with --",
        "no free port on …",
        "Ray has declared the node dead",
        "Ray cannot be imported: …",
    } <= found
    assert "there is no Python environment …" in jobscript_messages()


def test_every_error_has_its_entry() -> None:
    """For a new one write `### ` and its text in backticks, with … for names and numbers: why, and what to do."""
    patterns = [pattern(heading) for heading in HEADINGS]
    assert [f"{place}: {text}" for text, place in texts().items() if not any(p.fullmatch(text) for p in patterns)] == []


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_entry_is_an_error(heading: str) -> None:
    """Neither an old one, nor one that would stand for everything."""
    found = [text for text in texts() if pattern(heading).fullmatch(text)]
    assert 1 <= len(found) <= 8


def test_no_entry_is_there_twice_or_empty() -> None:
    assert len(set(HEADINGS)) == len(HEADINGS)
    parts = re.split(r"^#+ .*$", PAGE.read_text(), flags=re.MULTILINE)
    headings = re.findall(r"^(#+) .*$", PAGE.read_text(), re.MULTILINE)
    assert [place for place, part in enumerate(parts[1:]) if headings[place] == "###" and not part.strip()] == []
