"""The manual pages, made from the code: `python packaging/docs/man.py DIRECTORY` writes them to DIRECTORY/man1."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import click_tree
from click_tree import Choice, Verb

from rayhpc import __version__, paths
from rayhpc.errors import MEANINGS

_SPECIAL = str.maketrans({"\\": "\\e", "-": "\\-", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})


def pages() -> dict[str, str]:
    """{name: text} of a page for `rayhpc`, one for each of its commands with all below it, one for the bootstrap."""
    by_command: dict[str, list[Verb]] = defaultdict(list)
    for verb in click_tree.verbs():
        by_command["-".join(verb.words.split()[:2])].append(verb)
    made = {name: "\n".join(_page(name, verbs)) for name, verbs in by_command.items()}
    see = ["rayhpc", *sorted(set(by_command) - {"rayhpc"})]
    made["rayhpc-start"] = "\n".join(_page("rayhpc-start", [click_tree.start()]))
    return {name: f"{text}\n{_end(name, [*see, 'rayhpc-start'])}\n" for name, text in made.items()}


def escaped(text: str) -> str:
    """Text that groff prints as it is, whatever characters it has and begins with."""
    text = text.translate(_SPECIAL)
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def _page(name: str, verbs: list[Verb]) -> Iterator[str]:
    first = verbs[0]
    yield f'.TH {name.upper()} 1 "" "rayhpc {__version__}" "User commands"'
    yield f".SH NAME\n{escaped(name)} \\- {escaped(first.short.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield "\n.br\n".join(escaped(verb.usage) for verb in verbs)
    yield ".SH DESCRIPTION"
    yield from _text(first.text)
    if first.choices:
        yield ".SH OPTIONS"
        yield from _choices(first.choices)
    if len(verbs) > 1:
        yield ".SH COMMANDS"
        for verb in verbs[1:]:
            yield f".SS {escaped(verb.words)}"
            yield from _text(verb.text)
            yield from _choices(verb.choices)


def _text(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("\b"):
            yield ".PP\n.nf\n" + escaped("\n".join(block.splitlines()[1:])) + "\n.fi"
        else:
            yield ".PP\n" + escaped(" ".join(block.split()))


def _choices(choices: Iterable[Choice]) -> Iterator[str]:
    for choice in choices:
        facts = [choice.text]
        facts += [f"Default: {choice.default}."] if choice.default else []
        facts += [f"Variable: {choice.variable}."] if choice.variable else []
        yield f".TP\n.B {escaped(choice.flags)}\n{escaped(' '.join(facts))}"


def _end(name: str, others: list[str]) -> str:
    lines = []
    if name == "rayhpc-start":
        lines += [".SH EXIT STATUS", "The driver's, 128+n for signal n. For what the driver never saw:"]
        lines += [f".TP\n.B {int(code)}\n{escaped(meaning)}" for code, meaning in MEANINGS.items()]
        lines += [".SH FILES", "In the directory of the run, rayhpc\\-runs/latest:"]
        lines += [f".TP\n.I {escaped(file)}\n{escaped(text)}" for file, text in paths.RUN_FILES.items()]
    return "\n".join([*lines, ".SH SEE ALSO", *(f".BR {escaped(other)} (1)" for other in others if other != name)])


def main() -> None:
    """Write the pages below the directory that the command line names."""
    folder = Path(sys.argv[1], "man1")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / f"{name}.1").write_text(text)


if __name__ == "__main__":
    main()
