"""README.md and docs/: links lead somewhere, and commands use options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from rayhpc.cli import main
from rayhpc.cli.submit import SubmitGroup
from rayhpc.launch import command_line

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
FENCE = re.compile(r"^(```+|~~~+)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
BOOTSTRAP = ("rayhpc.start", "rayhpc start")


def links(text: str) -> Iterator[str]:
    """Relative links outside of fenced blocks, without their anchors."""
    for target in LINK.findall(FENCE.sub("", text)):
        if not re.match(r"[a-z][a-z0-9+.-]*:|#", target):
            yield unquote(target.partition("#")[0])


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of ours in fenced blocks, from `rayhpc` or `rayhpc.start` on."""
    for _, block in FENCE.findall(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            try:
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            except ValueError:  # an ellipsis in quotes, an apostrophe in a comment
                words = line.split()
            for place, word in enumerate(words):
                begins = place == 0 or words[place - 1] in ("&&", "||", ";", "|")
                if word == "rayhpc.start" and words[place - 1] == "-m":
                    yield ["rayhpc", "start", *words[place + 1 :]]
                elif word == "rayhpc" and (begins or words[place - 1] in ("-m", "exec")):
                    yield words[place:]


def flags(made: click.Command) -> set[str]:
    found = {"--help", "-h"}
    return found | {flag for parameter in made.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def unknown(words: list[str]) -> list[str]:
    """Verbs and options in a command of ours that do not exist."""
    made: click.Command = main.main
    rest = words[1:]
    while isinstance(made, click.Group):
        rest = made.named(rest) if isinstance(made, SubmitGroup) else rest
        if not rest or rest[0].startswith("-"):
            return [word for word in rest[:1] if word not in flags(made)]
        found = made.get_command(click.Context(made), rest[0])
        if found is None:
            return [rest[0]] if re.fullmatch(r"[a-z-]+", rest[0]) else []  # not: `rayhpc …`
        verb = rest.pop(0)
        made = found
        if verb == "start":
            ours = command_line.split(rest)[0]
            return [
                word
                for word in ours[:]
                if word.startswith("-") and word.partition("=")[0] not in flags(command_line.command())
            ]
    if made.context_settings.get("ignore_unknown_options"):
        return []
    before = rest[: rest.index("--")] if "--" in rest else rest
    return [word for word in before if word.startswith("--") and word.partition("=")[0] not in flags(made)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/b.md#part) ![c](<d e.png>)", ["docs/b.md", "d"]),
        ("[a](https://b) [c](#d) [e](mailto:f@g)", []),
        ("```\n[a](b)\n```\n", []),
        ('[a](two%20words.md "title")', ["two words.md"]),
    ],
)
def test_links_are_found(text: str, expected: list[str]) -> None:
    assert list(links(text)) == expected


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("mpirun -np 4 python -m rayhpc.start --num-cpus 2 train.py --lr 3", []),
        ("$ mpirun -np 4 python -m rayhpc.start --num-cpu 2 train.py", ["--num-cpu"]),
        ("srun python -m rayhpc.start --one-per-host -- python x.py --address {address}", []),
        ("A=1 mpiexec python -m rayhpc.start \\\n   --no-dashboard --typo x.py", ["--typo"]),
        ("rayhpc start --hold", []),
        ("rayhpc --version", []),
        ("rayhpc --verson", ["--verson"]),
        ("cd x && rayhpc no-such-verb --x", ["no-such-verb"]),
        ("rayhpc …", []),
        ("pip install 'rayhpc[mpich]'", []),
        ("python -m rayhpc no-such-verb", ["no-such-verb"]),
    ],
)
def test_commands_are_checked(line: str, wrong: list[str]) -> None:
    assert [word for words in commands(f"```console\n{line}\n```\n") for word in unknown(words)] == wrong


def test_there_is_something_to_check() -> None:
    assert [words for path in DOCUMENTS for words in commands(path.read_text())]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert [target for target in links(path.read_text()) if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_use_what_exists(path: Path) -> None:
    wrong = {" ".join(words): unknown(words) for words in commands(path.read_text())}
    assert {command: found for command, found in wrong.items() if found} == {}


def test_the_example_of_a_jobs_file_is_the_one_that_runs() -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "jobfile.md").read_text(), re.DOTALL)
    assert shown
    assert shown[1] == (ROOT / "examples" / "job" / "job.yaml").read_text()
