"""The reference pages, made from the code: `python packaging/docs/reference.py DIRECTORY` writes them there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import click_tree
import variables
from click_tree import Choice, Verb

from rayhpc import paths, schedulers
from rayhpc.schedulers.facts import State


def pages() -> dict[str, str]:
    """{path below docs/: Markdown} of every page that is made."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "reference/options.md": _options,
        "reference/commands.md": _commands,
        "reference/files.md": _files,
        "reference/variables.md": _variables,
        "reference/schedulers.md": _schedulers,
    }
    return {path: "\n\n".join(maker()) + "\n" for path, maker in makers.items()}


def plain(text: str) -> str:
    """Text of a program as Markdown: no character of it is a mark, `code` stays code, a page of docs/ is a link."""
    parts = re.split(r"(`[^`]+`)", text)
    escaped = (part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|#])", r"\\\1", part) for part in parts)
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](../\1)", "".join(escaped))


def paragraphs(text: str) -> Iterator[str]:
    """A help text: what click prints as it stands (behind \\b) is a block of code, the rest is filled."""
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("\b"):
            yield "```\n" + "\n".join(line.removeprefix("  ") for line in block.splitlines()[1:]) + "\n```"
        else:
            yield plain(" ".join(block.split()))


def _options() -> Iterator[str]:
    verb = click_tree.start()
    yield "# Options of a run"
    yield from paragraphs(verb.text)
    yield (
        "Each option is also a variable. What the command line says wins over the variable. A repeatable option takes "
        "several words in its variable, divided by spaces."
    )
    for choice in verb.choices:
        yield from _choice(choice, "##")


def _choice(choice: Choice, level: str) -> Iterator[str]:
    yield f"{level} `{choice.flags}`"
    yield plain(choice.text)
    facts = [f"Default: `{choice.default}`"] if choice.default else []
    facts += [f"Variable: `{choice.variable}`"] if choice.variable else []
    if facts:
        yield " · ".join(facts)


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield "`rayhpc COMMAND --help` prints the same. [Options of a run](options.md) is `python -m rayhpc.start`."
    for verb in click_tree.verbs():
        yield from _verb(verb)


def _verb(verb: Verb) -> Iterator[str]:
    depth = min(len(verb.words.split()), 3)
    yield f"{'#' * (depth + (depth == 1))} `{verb.words}`"
    yield f"```text\n{verb.usage}\n```"
    yield from paragraphs(verb.text)
    if verb.choices:
        yield "\n".join(f"* {_line(choice)}" for choice in verb.choices)


def _line(choice: Choice) -> str:
    default = f" Default: `{choice.default}`." if choice.default else ""
    variable = f" Variable: `{choice.variable}`." if choice.variable else ""
    return f"`{choice.flags}`: {plain(choice.text)}{default}{variable}"


def _files() -> Iterator[str]:
    yield "# Files of a run"
    yield (
        "A run has a directory, `rayhpc-runs/<date>-<time>-<8 letters>`; `--run-dir` names another place, and the link "
        f"`{paths.LATEST}` leads to the newest. Directories are for their owner alone (0700)."
    )
    yield table(("file", "what it has"), [(f"`{name}`", text) for name, text in paths.RUN_FILES.items()])
    yield (
        f"`{paths.SPEC}` has hosts, CPUs, GPUs, memory, addresses, versions and the driver's command of each node; "
        f"`{paths.OUTCOME}` the exit code, the cause, and a fault's what, where, evidence and next step. "
        "`rayhpc runs list` reads them, `rayhpc runs plot` draws the events. What `rayhpc alloc` keeps is described in "
        "[From the login node](../alloc.md#what-is-written-where)."
    )


def _variables() -> Iterator[str]:
    yield "# Environment variables"
    yield "## Options"
    flags = [(f"`{choice.variable}`", f"`{choice.flags}`") for choice in click_tree.start().choices if choice.variable]
    yield "Each [option of a run](options.md) has one:"
    yield table(("variable", "option"), flags)
    for title, found in (
        ("Read by rayhpc", variables.READ),
        ("Read by the jobscripts", variables.SCRIPTS),
        ("Set for the driver", variables.DRIVER),
    ):
        yield f"## {title}"
        yield table(("variable", "meaning"), [(f"`{name}`", text) for name, text in found.items()])
    yield "A Python driver asks with functions instead: [What a driver may ask](../driver-api.md)."


def _schedulers() -> Iterator[str]:
    yield "# Schedulers"
    yield (
        "**Inside of a job** rayhpc knows the scheduler by a variable. A command in the last column is asked for the "
        "end of the job, which may move."
    )
    yield table(
        ("scheduler", "the job's id", "the end of the job"),
        [(each.name, f"`{each.job_id}`", f"`{' '.join(each.deadline_query)}`") for each in schedulers.ALL],
    )
    yield "**From the login node**, `rayhpc alloc submit NAME`:"
    yield table(
        ("name", "submits with", "ends with", "asks with", "jobscript"),
        [
            (
                each.name,
                f"`{each.submit[0]}`",
                f"`{each.cancel[0]}`",
                ", ".join(sorted({f"`{query.argv([])[0]}`" for query in each.queries})),
                f"`jobscripts/{each.script}`" if each.script else "your own, with `--script`",
            )
            for each in schedulers.SYSTEMS.values()
        ],
    )
    yield "**States**, whatever the scheduler calls them:"
    yield table(("state", "meaning"), [(state.name, plain(state.value)) for state in State])


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Write the pages below the directory that the command line names."""
    for path, text in pages().items():
        file = Path(sys.argv[1], path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
