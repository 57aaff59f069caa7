"""The documentation site: its menu has every page, and the pages that are made from the code leave nothing out."""

from __future__ import annotations

import dataclasses
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from rayhpc import paths
from rayhpc.cli import main
from rayhpc.options import Options
from rayhpc.schedulers import SYSTEMS
from tests.launch import skip

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
BORROWED = {"changelog.md", "contributing.md"}  # from the root of the repository


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{path: text} of the pages that are made from the code."""
    place = tmp_path_factory.mktemp("pages")
    subprocess.run([sys.executable, ROOT / "packaging/docs/reference.py", place], check=True)
    return {str(page.relative_to(place)): page.read_text() for page in place.rglob("*.md")}


def entries(nav: Any) -> Iterator[str]:
    """The pages of a menu; a folder stands for all of its pages."""
    if isinstance(nav, str):
        yield from (str(page.relative_to(DOCS)) for page in (DOCS / nav).glob("*.md")) if nav.endswith("/") else [nav]
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from entries(part)


def menu() -> list[str]:
    return list(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def test_every_page_is_in_the_menu_once(made: dict[str, str]) -> None:
    """A new page of docs/ wants a line in mkdocs.yml, under `nav`."""
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert sorted(menu()) == sorted(written | set(made) | BORROWED)


def test_no_page_is_written_and_made(made: dict[str, str]) -> None:
    assert [page for page in made if (DOCS / page).exists()] == []


@pytest.mark.parametrize("field", dataclasses.fields(Options), ids=lambda field: field.name)
def test_every_option_has_its_entry_and_variable(field: dataclasses.Field[Any], made: dict[str, str]) -> None:
    assert re.search(rf"^## `--{field.name.replace('_', '-')}\b", made["reference/options.md"], re.MULTILINE)
    assert f"`RAYHPC_{field.name.upper()}`" in made["reference/variables.md"]


def commands(command: click.Command, words: str) -> Iterator[str]:
    yield words
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from commands(below, f"{words} {name}")


def test_every_command_has_its_entry(made: dict[str, str]) -> None:
    headings = set(re.findall(r"^#+ `(rayhpc[^`]*)`$", made["reference/commands.md"], re.MULTILINE))
    assert headings == set(commands(main.main, "rayhpc")) - {"rayhpc start"}  # that one is the page of options


def test_every_scheduler_and_file_has_its_row(made: dict[str, str]) -> None:
    assert [name for name in SYSTEMS if f"| {name} |" not in made["reference/schedulers.md"]] == []
    assert [name for name in paths.RUN_FILES if f"| `{name}` |" not in made["reference/files.md"]] == []


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{name: file} of the manual pages."""
    place = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "packaging/docs/man.py", place], check=True)
    return {page.stem: page for page in (place / "man1").iterdir()}


def test_every_command_has_its_manual(manuals: dict[str, Path]) -> None:
    top = main.main.list_commands(click.Context(main.main))
    assert set(manuals) == {"rayhpc", *(f"rayhpc-{name}" for name in top)}
    below = {words for words in commands(main.main, "rayhpc") if len(words.split()) > 2}
    headings = {line for page in manuals.values() for line in page.read_text().replace("\\-", "-").splitlines()}
    assert {f".SS {words}" for words in below} <= headings


def test_the_manuals_are_read_without_a_warning(manuals: dict[str, Path]) -> None:
    if shutil.which("groff") is None:
        skip("no groff (Debian: groff-base)")
    for page in manuals.values():
        words = ["groff", "-Kutf8", "-man", "-ww", "-Tutf8", page]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "SEE ALSO" in re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)


def test_every_variable_is_described() -> None:
    """RAYHPC_… and others' in the program and in the jobscripts: an option's, or in packaging/docs/variables.py."""
    table = runpy.run_path(str(ROOT / "packaging/docs/variables.py"))
    described = {*table["READ"], *table["SCRIPTS"], *table["DRIVER"], *table["INTERNAL"]}
    options = {f"RAYHPC_{field.name.upper()}" for field in dataclasses.fields(Options)}
    sources = [*(ROOT / "rayhpc").rglob("*.py"), *(ROOT / "jobscripts").iterdir()]
    pattern = r"\b(?:RAYHPC|RAY_HEAD|GLOO_SOCKET|NCCL_SOCKET)_[A-Z][A-Z_]*[A-Z]\b"
    used = {name for file in sources for name in re.findall(pattern, file.read_text())}
    assert used - options - described == set()
    assert described - used - {"RAYHPC_TOKEN_FILE", "RAYHPC_NODES"} == set()  # made of the fields of Terminals
