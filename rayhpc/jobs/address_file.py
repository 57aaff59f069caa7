"""The file of addresses that other tools keep: a dashboard on each line, a name in a comment above it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rayhpc.errors import configuration

_NAME = re.compile(r"#\s*Cluster:\s*(.*\S)")
_ADDRESS = re.compile(r"(?P<scheme>https?://)?(?P<place>(?:\[[0-9A-Fa-f:.%]+\]|[^\s\[\]:/@]+):\d{1,5})/?")


@dataclass(frozen=True)
class Address:
    """A cluster's dashboard, http://HOST:PORT, and its name, empty where the file tells none."""

    url: str
    name: str = ""


def parse(text: str, file: str) -> tuple[Address, ...]:
    """The addresses in their order; raises RayhpcError for a line that is none, and without any."""
    found, name = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word.startswith("#"):
            match = _NAME.fullmatch(word)
            name = match[1] if match else name
        elif word:
            found.append(Address(_url(word, f"{file}, line {number}"), name))
            name = ""
    if not found:
        raise configuration(f"{file} names no address", next_step="a line for each cluster: http://HOST:PORT")
    return tuple(found)


def _url(word: str, place: str) -> str:
    match = _ADDRESS.fullmatch(word)
    if match is None:
        raise configuration(
            f"{place}: {word[:80]!r} is no address", next_step="a line is http://HOST:PORT or HOST:PORT"
        )
    return (match["scheme"] or "http://") + match["place"]


def text(addresses: Iterable[Address]) -> str:
    """The file's content: parse() gives the same addresses back."""
    lines = [(f"# Cluster: {address.name}\n" if address.name else "") + address.url + "\n" for address in addresses]
    return "".join(lines)
