"""The light install of docs/login-node.md, made of the packages of the tests' own environment: no index is asked."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "login-node.md"


def promised() -> list[str]:
    """The packages of the light install, as the page tells them to a user."""
    line = re.search(r"^pip install (click .+)$", PAGE.read_text(), re.MULTILINE)
    assert line
    return line[1].split()


def with_dependencies(names: list[str]) -> Iterator[importlib.metadata.Distribution]:
    """What pip would install for these packages, all of it from the environment of the tests."""
    todo, seen = list(names), set()
    while todo:
        found = importlib.metadata.distribution(todo.pop())
        if found.name not in seen:
            seen.add(found.name)
            yield found
            required = [line for line in found.requires or [] if ";" not in line]
            todo += [name[0] for line in required if (name := re.match(r"[\w.-]+", line))]


def make(place: Path) -> Path:
    """The Python of a new environment with the light install's packages alone, and rayhpc from this repository."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = place.glob("lib/python3*/site-packages")
    for distribution in with_dependencies(promised()):
        tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
        for top in tops:
            (packages / top).symlink_to(str(distribution.locate_file(top)))
    (packages / "rayhpc.pth").write_text(f"{ROOT}\n")
    return place / "bin" / "python"
