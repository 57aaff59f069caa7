"""What mkdocs does besides docs/: pages made from the code, pages of the repository's root, links that leave docs/."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import reference

from rayhpc import __version__

ROOT = Path(__file__).parents[2]
# Pages that are elsewhere in the repository: {page of the site: file}.
BORROWED = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_NAMED_BY_FILE = re.compile(r"\[([\w./-]+\.md)\]\(([^)#\s]+\.md)(?=[)#])")
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=[)\s])")
_FROM_OUTSIDE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]+""")
_HARMLESS = ("<link rel=canonical", '<link rel="canonical"')


def on_config(config: Any) -> Any:
    """Name the version, and list the decisions, which the table of contents takes as they come."""
    config["extra"]["version_of_code"] = __version__
    folder = Path(config["docs_dir"], "decisions")
    pages = ["decisions/README.md", *(f"decisions/{path.name}" for path in sorted(folder.glob("[0-9]*.md")))]
    config["nav"] = _expanded(config["nav"], pages)
    return config


def _expanded(nav: Any, decisions: list[str]) -> Any:
    if isinstance(nav, list):
        return [_expanded(entry, decisions) for entry in nav]
    if isinstance(nav, dict):
        return {name: _expanded(entry, decisions) for name, entry in nav.items()}
    return decisions if nav == "decisions/" else nav


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    made = reference.pages()
    borrowed = {page: (ROOT / name).read_text() for page, name in BORROWED.items()}
    for page, text in {**made, **borrowed}.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links show the title of their page, and those to what is not a page of the site lead to the repository."""
    source = BORROWED.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder = (ROOT / source).parent
    markdown = _NAMED_BY_FILE.sub(lambda match: f"[{_title(folder / match[2], match[1])}]({match[2]}", markdown)
    return _LINK.sub(lambda match: _target(match[1], source, page.file.src_uri, config["repo_url"]), markdown)


def _title(file: Path, name: str) -> str:
    """The first heading of a page; its name where it is made from the code."""
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), name)


def _target(link: str, source: str, page: str, repository: str) -> str:
    if re.match(r"[a-z][a-z0-9+.-]*:|#|<", link):
        return link
    path, mark, anchor = link.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    own = next((name for name, file in BORROWED.items() if file == there), there.removeprefix("docs/"))
    if own != there or there.startswith("docs/"):
        return posixpath.relpath(own, posixpath.dirname(page) or ".") + mark + anchor
    kind = "tree" if (ROOT / there).is_dir() else "blob"
    return f"{repository.rstrip('/')}/{kind}/main/{there}{mark}{anchor}"


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Fail where a page would load something from the internet: labs read it without."""
    found = [text for text in _FROM_OUTSIDE.findall(output) if not text.startswith(_HARMLESS)]
    if found:
        raise PluginError(f"{page.file.src_uri} loads from outside: {found[0]}")
    return output
