"""A YAML file, read value by value; all that is wrong is gathered, each with its line. The owner of yaml."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rayhpc.errors import RayhpcError, configuration, counted
from rayhpc.jobs.job_file.variables import Variables

_SHOWN_PROBLEMS = 20
_SHOWN_CHARACTERS = 60
_STRING = "tag:yaml.org,2002:str"
_NOTHING = "tag:yaml.org,2002:null"
_KINDS = {MappingNode: "a mapping", SequenceNode: "a list", ScalarNode: "a single value"}
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class Problem:
    """What is wrong in a line of a file."""

    line: int
    text: str


def refusal(name: str, problems: Iterable[Problem]) -> RayhpcError:
    """The error that tells all that is wrong with a file, in the order of its lines."""
    lines = [f"{name}:{problem.line}: {problem.text}" for problem in sorted(problems, key=lambda it: it.line)]
    rest = len(lines) - _SHOWN_PROBLEMS
    more = [f"and {rest} more"] if rest > 0 else []
    return configuration(
        f"{name} cannot be used: {counted(len(lines), 'problem')}",
        *lines[:_SHOWN_PROBLEMS],
        *more,
        next_step="correct the lines; nothing was submitted. --dry-run tries a file out",
    )


class BrokenError(Exception):
    """The text is no YAML that holds keys."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line, self.text = line, text


def compose(text: str) -> Node:
    """The text as YAML's tree, whose nodes know their lines; raises BrokenError. Nothing in it is built or run."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BrokenError(line, f"broken YAML: the character U+{error.character:04X} is not allowed") from error
    try:
        node: Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BrokenError(mark.line + 1 if mark else 1, f"broken YAML: {error.problem}") from error
    except (ValueError, OverflowError, RecursionError) as error:  # an escape beyond Unicode; thousands of brackets
        raise BrokenError(loader.line + 1, f"broken YAML: {error}") from error
    if node is None:
        raise BrokenError(1, "the file is empty")
    return node


def raw(node: Node | None, key: str) -> tuple[str, ...]:
    """What stands under a key of the file, before anything is replaced in it: one value, or a list of them."""
    pairs = node.value if isinstance(node, MappingNode) else ()
    found = next((value for name, value in pairs if isinstance(name, ScalarNode) and name.value == key), None)
    entries = found.value if isinstance(found, SequenceNode) else [found]
    return tuple(entry.value for entry in entries if isinstance(entry, ScalarNode) and entry.tag != _NOTHING)


class Document:
    """Reads nodes as what is expected of them, and gathers what is wrong: a reader then returns None."""

    def __init__(self, folder: Path, variables: Variables, environment: str = "environment") -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.hints: list[str] = []
        self._variables = variables
        self._environment = environment

    def hides(self, name: str) -> bool:
        """True for a variable whose value nobody may see."""
        return self._variables.hides(name)

    def note(self, node: Node, text: str, offset: int = 0) -> None:
        """A problem in a node's line; offset: where in a text of several lines."""
        line = int(node.start_mark.line) + 1
        if isinstance(node, ScalarNode) and node.style in ("|", ">"):
            line += 1 + (node.value.count("\n", 0, offset) if node.style == "|" else 0)
        self.problems.append(Problem(line, self._variables.mask(text)))

    def pairs(self, node: Node, what: str) -> Iterator[tuple[str, ScalarNode, Node]]:
        """The keys of a mapping, each once, with its node and its value's."""
        if not isinstance(node, MappingNode):
            self.note(node, f"{what} must be a mapping, not {self._kind(node)}")
            return
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or key.tag == _NOTHING:
                self.note(key, f"{what}: a key must be a word")
            elif key.value in lines:
                self.note(key, f"duplicate key {key.value}, first in line {lines[key.value]}")
            else:
                lines[key.value] = int(key.start_mark.line) + 1
                yield key.value, key, value

    def values(self, node: Node, what: str, readers: Mapping[str, Reader]) -> dict[str, tuple[Node, Any]]:
        """What is under the keys that are known, each with its node, and read by its reader."""
        found = {}
        for name, key, value in self.pairs(node, what):
            if name in readers:
                found[name] = (value, readers[name](self, value, name))
            else:
                self.note(key, f"unknown key {name}: {_suggestion(name, readers)}")
        return found

    def renamed(self, node: Node, names: Mapping[str, str], refused: Mapping[str, str]) -> Node:
        """The mapping with keys of other tools called as ours are, which is a hint; some are refused with a reason."""
        if not isinstance(node, MappingNode):
            return node
        given = {key.value for key, _ in node.value if isinstance(key, ScalarNode)}
        pairs = []
        for key, value in node.value:
            old = key.value if isinstance(key, ScalarNode) else ""
            new = names.get(old, old)
            if old in refused:
                self.note(key, f"{old} is none of our keys: {refused[old]}")
                continue
            if new != old and new in given:
                self.note(key, f"{old} and {new} say the same thing: give one")
            elif new != old:
                self.hints.append(f"line {key.start_mark.line + 1}: {old} is called {new} here")
            pairs.append((ScalarNode(key.tag, new, key.start_mark, key.end_mark) if new != old else key, value))
        return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)

    def _kind(self, node: Node) -> str:
        return "empty" if node.tag == _NOTHING else _KINDS[type(node)]

    def scalar(self, node: Node, what: str, secret: bool = False) -> tuple[str, bool] | None:
        """A single value as it was written, its variables replaced; and whether it is a secret, where it may be one."""
        if not isinstance(node, ScalarNode) or node.tag == _NOTHING:
            self.note(node, f"{what} must be a single value, not {self._kind(node)}")
            return None
        expanded = self._variables.expand(node.value)
        for wrong in expanded.wrong:
            self.note(node, wrong.text, wrong.offset)
        if expanded.secrets and not secret:
            names = ", ".join(expanded.secrets)
            self.note(node, f"{what} holds {names}, a secret: only `{self._environment}` takes it; else: not_secret")
        elif not _is_text(expanded.text):
            self.note(node, f"{what} holds a NUL, or half a character")
        elif not expanded.wrong:
            return expanded.text, bool(expanded.secrets)
        return None

    def word(self, node: Node, what: str) -> str | None:
        """Any single value, as the text that was written."""
        found = self.scalar(node, what)
        return found[0] if found else None

    def text(self, node: Node, what: str) -> str | None:
        """A text that is not empty."""
        if isinstance(node, ScalarNode) and node.tag not in (_STRING, _NOTHING):
            self.note(node, f"{what} must be text, not {node.value}: put it into quotes")
            return None
        found = self.word(node, what)
        if found is not None and not found.strip():
            self.note(node, f"{what} is empty")
            return None
        return found

    def items(self, node: Node, what: str, read: Callable[[Document, Node, str], str | None]) -> tuple[str, ...] | None:
        """A list, each of its entries read by the reader."""
        if not isinstance(node, SequenceNode):
            self.note(node, f"{what} must be a list, not {self._kind(node)}")
            return None
        entries = [read(self, entry, f"an entry of {what}") for entry in node.value]
        return tuple(entry for entry in entries if entry is not None)

    def number(self, node: Node, what: str) -> float | None:
        """A number from 0 on; whole ones as int."""
        text = self.word(node, what)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            self.note(node, f"{what} must be a number from 0 on, not {short(text)}")
            return None
        value = float(text)
        return int(value) if value.is_integer() else value

    def count(self, node: Node, what: str, least: int = 0) -> int | None:
        """A whole number from `least` on."""
        value = self.number(node, what)
        if value is None or (isinstance(value, int) and value >= least):
            return value if isinstance(value, int) else None
        self.note(node, f"{what} must be a whole number from {least} on, not {value:g}")
        return None

    def flag(self, node: Node, what: str) -> bool | None:
        """true or false."""
        text = self.word(node, what)
        if text not in (None, "true", "false"):
            self.note(node, f"{what} must be true or false, not {short(str(text))}")
            return None
        return None if text is None else text == "true"

    def one_of(self, node: Node, what: str, choices: Sequence[str]) -> str | None:
        """One of some words."""
        text = self.word(node, what)
        if text is None or text in choices:
            return text
        self.note(node, f"{what} must be one of {', '.join(choices)}, not {short(text)}")
        return None

    def path(self, text: str) -> Path:
        """A local path: relative to the folder of the file."""
        return self.folder / os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser raises where there is no home


Reader = Callable[[Document, Node, str], Any]


def _is_text(text: str) -> bool:
    """False for what no argument can hold: a NUL, or a surrogate, which YAML and file names may have."""
    return not re.search("[\0\ud800-\udfff]", text)


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"is it {near[0]}?" if near else f"known are {', '.join(known)}"


def short(text: str) -> str:
    """A value as messages quote it."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
