"""The tables of sites: those that are shipped, and a user's own, which replace or extend them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from yaml.nodes import Node

from rayhpc import units
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.jobs.job_file.document import Document, Problem, Reader, refusal, short
from rayhpc.jobs.job_file.load import Said, composed, read_text
from rayhpc.schedulers import SYSTEMS
from rayhpc.sites.table import ASKED, INTERNET, Limit, Queue, Site

SHIPPED = Path(__file__).with_name("tables")
_REQUIRED = ("title", "source", "date", "scheduler", "queues")
_HOSTS = re.compile(r"(?P<least>[1-9][0-9]{0,6})(?P<open>-(?P<most>[0-9]{1,7})?)?")


def own_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's own tables are; raises RuntimeError without a home."""
    shared = environ.get("XDG_CONFIG_HOME", "")
    return (Path(shared) if shared.startswith("/") else Path.home() / ".config") / "rayhpc" / "sites"


def names(environ: Mapping[str, str]) -> list[str]:
    """The names of all sites."""
    return sorted({file.stem for folder in (SHIPPED, own_folder(environ)) for file in folder.glob("*.yaml")})


def find(name: str, environ: Mapping[str, str]) -> Site:
    """The site of this name, a user's own first; raises RayhpcError for an unknown name, or a table that is wrong."""
    known = names(environ)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        step = f"did you mean {near[0]}?" if near else f"describe it in {own_folder(environ) / f'{name}.yaml'}"
        evidence = (f"known: {', '.join(known)}",)
        raise RayhpcError(
            Fault(f"there is no table of a site {name!r}", ExitCode.USAGE, evidence=evidence, next_step=step)
        )
    own = own_folder(environ) / f"{name}.yaml"
    values, document = _merged(own if own.is_file() else SHIPPED / own.name, environ, ())
    missing = [key for key in _REQUIRED if not values.get(key)]
    if missing and not document.problems:
        document.problems.append(Problem(1, f"missing: {', '.join(missing)}; or extends: another site"))
    file = str(own) if own.is_file() else ""
    if document.problems:
        raise refusal(file or str(SHIPPED / own.name), document.problems)
    return Site(**{**values, "name": name, "file": file})


def here(environ: Mapping[str, str]) -> Site | None:
    """The site of this job, or of this host: by RAYHPC_SITE, or by the variables that the site sets; else None.

    Raises RayhpcError where RAYHPC_SITE names none.
    """
    if environ.get("RAYHPC_SITE"):
        return find(environ["RAYHPC_SITE"], environ)
    found: list[Site] = []
    for name in names(environ):
        try:
            site = find(name, environ)
        except RayhpcError:  # a table of the user's that is wrong: who names it is told
            continue
        found += [site] if site.is_here(environ) else []
    return found[0] if len(found) == 1 else None


def _merged(file: Path, environ: Mapping[str, str], before: tuple[Path, ...]) -> tuple[dict[str, Any], Document]:
    """What a file says, over what it extends."""
    node, variables = composed(file, read_text(file), Said(environ))
    document = Document(file.parent, variables)
    read = {key: value for key, (_, value) in document.values(node, "the file", _READERS).items() if value is not None}
    base = read.pop("extends", None)
    if base is None:
        return read, document
    own = own_folder(environ) / f"{base}.yaml"
    candidates = [path for path in (own, SHIPPED / own.name) if path.is_file() and path not in (file, *before)]
    if not candidates:
        document.note(node, f"extends: there is no other table of {short(base)}")
        return read, document
    values, extended = _merged(candidates[0], environ, (file, *before))
    if extended.problems:
        raise refusal(str(candidates[0]), extended.problems)
    return {**values, **read}, document


def _matching(document: Document, node: Node, what: str, pattern: str, like: str) -> str | None:
    text = document.word(node, what)
    if text is None or re.fullmatch(pattern, text):
        return text
    document.note(node, f"{what} must be like {like}, not {short(text)}")
    return None


def _texts(document: Document, node: Node, what: str, read: Reader = Document.word) -> tuple[str, ...] | None:
    return document.items(node, what, read)


def _pairs(document: Document, node: Node, what: str) -> dict[str, str]:
    read = {name: document.word(value, name) for name, _, value in document.pairs(node, what)}
    return {name: value for name, value in read.items() if value is not None}


def _queues(document: Document, node: Node, what: str) -> tuple[Queue, ...]:
    found = []
    for name, key, value in document.pairs(node, what):
        before = len(document.problems)
        read = {each: item for each, (_, item) in document.values(value, name, _QUEUE).items() if item is not None}
        if read.get("limits"):
            found.append(Queue(name, **read))
        elif len(document.problems) == before:
            document.note(key, f"{name} needs limits, as {{1-10: 01:00:00}}")
    return tuple(found)


def _limits(document: Document, node: Node, what: str) -> tuple[Limit, ...]:
    found = []
    for hosts, key, value in document.pairs(node, what):
        match, text = _HOSTS.fullmatch(hosts), document.word(value, f"{what} of {hosts}")
        try:
            seconds = int(units.seconds(text or ""))
        except ValueError as error:
            document.note(value, f"{what} of {hosts}: {error}")
            continue
        if match is None:
            document.note(key, f"{what}: hosts must be like 1-10 or 128-, not {short(hosts)}")
            continue
        least = int(match["least"])
        most = int(match["most"]) if match["most"] else (None if match["open"] else least)
        found.append(Limit(least, most, seconds))
    return tuple(found)


_URL = partial(_matching, pattern=r"https?://\S+", like="https://docs.example.org/queues")
_QUEUE: dict[str, Reader] = {
    "limits": _limits,
    "partition": Document.text,
    "qos": Document.text,
    "directives": _texts,
    "only_named": Document.flag,
    "cpus": Document.count,
    "gpus": Document.count,
    "note": Document.text,
}
_READERS: dict[str, Reader] = {
    "extends": Document.text,
    "title": Document.text,
    "source": partial(_texts, read=_URL),
    "date": partial(_matching, pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}", like="2026-08-19"),
    "scheduler": partial(Document.one_of, choices=tuple(SYSTEMS)),
    "queues": _queues,
    "cpus": Document.count,
    "gpus": Document.count,
    "gpu_variable": Document.text,
    "ask": partial(_texts, read=partial(Document.one_of, choices=ASKED)),
    "directives": _texts,
    "interface": Document.text,
    "scratch": Document.text,
    "node_local": Document.text,
    "modules": _texts,
    "variables": _pairs,
    "proxy": _URL,
    "internet": partial(Document.one_of, choices=INTERNET),
    "known_by": _pairs,
    "unknown": _texts,
}
KEYS = tuple(_READERS)
QUEUE_KEYS = tuple(_QUEUE)
