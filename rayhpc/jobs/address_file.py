"""The file of addresses that other tools keep: one on each line, a name in a comment above it."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayhpc.errors import configuration
from rayhpc.records.lock import only_writer
from rayhpc.user_input import files

_NAME = re.compile(r"#\s*Cluster:\s*(.*\S)")
# Ray's own ports: tools that keep HOST:6379 mean a cluster whose dashboard is at 8265.
_GCS, _DASHBOARD = "6379", "8265"
_ADDRESS = re.compile(r"(?P<scheme>https?://)?(?P<place>(?:\[[0-9A-Fa-f:.%]+\]|[^\s\[\]:/@]+):\d{1,5})/?")


@dataclass(frozen=True)
class Address:
    """A cluster's dashboard, http://HOST:PORT, and its name, empty where the file tells none; said: the file's word."""

    url: str
    name: str = ""
    said: str = field(default="", compare=False)


def parse(text: str, file: str) -> tuple[Address, ...]:
    """The addresses in their order; raises RayhpcError for a line that is none, and without any."""
    found, name = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word.startswith("#"):
            match = _NAME.fullmatch(word)
            name = match[1] if match else name
        elif word:
            found.append(address(word, f"{file}, line {number}", name))
            name = ""
    if not found:
        raise configuration(f"{file} names no address", next_step="a line for each cluster: http://HOST:PORT")
    return tuple(found)


def address(word: str, place: str, name: str = "") -> Address:
    """The address that a word is; raises RayhpcError for one that is none, with the place where it was said."""
    return Address(_url(word, place), name, word)


def _url(word: str, place: str) -> str:
    match = _ADDRESS.fullmatch(word)
    if match is None:
        raise configuration(
            f"{place}: {word[:80]!r} is no address", next_step="a line is http://HOST:PORT or HOST:PORT"
        )
    host, _, port = match["place"].rpartition(":")
    dashboard = f"{host}:{_DASHBOARD}" if port == _GCS and not match["scheme"] else match["place"]
    return (match["scheme"] or "http://") + dashboard


def text(addresses: Iterable[Address]) -> str:
    """The file's content: parse() gives the same addresses back."""
    lines = [(f"# Cluster: {each.name}\n" if each.name else "") + (each.said or each.url) + "\n" for each in addresses]
    return "".join(lines)


def save(file: Path, new: Sequence[Address], gone: Container[str] | None = None) -> int:
    """Bring a file up to date, under a lock; how many addresses it has then. Raises RayhpcError.

    gone: URLs that are not there any more, while the lines of other tools stay; None: `new` alone is what is there.
    """
    try:
        with only_writer(file):
            old = () if gone is None else [each for each in _old(file) if each.url not in gone]
            kept = [each for each in old if not _replaced(each, new)]
            fresh = file.with_name(f"{file.name}.{os.getpid()}")
            fresh.write_text(text([*kept, *new]), encoding="utf-8")
            fresh.replace(file)
    except OSError as error:
        raise configuration(
            f"the address file {file} cannot be written: {error.strerror}", next_step="name a place that is writable"
        ) from error
    return len(kept) + len(new)


def _old(file: Path) -> tuple[Address, ...]:
    found = files.read_text(file) if file.exists() else ""
    return parse(found, str(file)) if found.strip() else ()


def _replaced(old: Address, new: Sequence[Address]) -> bool:
    return any(old.url == each.url or (old.name and old.name == each.name) for each in new)
