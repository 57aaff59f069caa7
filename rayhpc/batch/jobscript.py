"""The script of an allocation: one that is shipped, or the user's own, with the driver's command written into it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import rayhpc
from rayhpc.errors import configuration
from rayhpc.user_input import files

# A script says with these lines, alone on a line, where its copy gets the driver's command and the settings.
COMMAND = "# rayhpc: command"
SETTINGS = "# rayhpc: settings"

# Slurm takes scripts of 4 MiB.
_LIMIT = 4 * 2**20
FOLDER = Path(rayhpc.__file__).with_name("jobscripts")


def shipped(name: str) -> Path:
    """The file of a shipped script; raises RayhpcError naming those that there are."""
    file = FOLDER / name
    if not name or not file.is_file():
        there_are = sorted(path.name for path in FOLDER.glob("*.*")) if FOLDER.is_dir() else []
        raise configuration(
            f"no jobscript {name} is shipped" if name else "no jobscript is shipped for this scheduler",
            f"shipped: {', '.join(there_are) or 'none'}",
            next_step=f"name one of your own with --script: it needs the line '{COMMAND}'",
        )
    return file


def read(file: Path) -> str:
    """A script's text, any bytes of it; raises RayhpcError where it cannot be read."""
    try:
        return files.read_bytes(file, _LIMIT).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise configuration(
            f"the jobscript {file} cannot be read: {error.strerror}", next_step="rayhpc alloc init makes one to edit"
        ) from error


def save(file: Path, text: str, fresh: bool = True) -> None:
    """Write a script that its owner may run; raises RayhpcError if it cannot be written, or is there if `fresh`."""
    how = os.O_EXCL if fresh else os.O_TRUNC
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | how, 0o700), "wb") as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise configuration(
            f"{file} cannot be written: {error.strerror}", next_step="choose another place, or --force"
        ) from error


def filled(script: str, command: Sequence[str], settings: Sequence[str]) -> str:
    """The script with the driver's command and the settings in their places; raises RayhpcError without a place."""
    lines = script.split("\n")
    marks = [line.strip() for line in lines]
    if marks.count(COMMAND) != 1:
        raise configuration(
            f"the jobscript has {marks.count(COMMAND)} lines '{COMMAND}', where one is needed",
            next_step='put it above the line that uses "$@"; rayhpc alloc init copies a script that has it',
        )
    command_line = f"set -- {' '.join(bash_word(word) for word in command)}"
    replaced = {COMMAND: [command_line], SETTINGS: list(settings)}
    if SETTINGS not in marks:
        replaced[COMMAND] = [*settings, command_line]
    return "\n".join(new for line in lines for new in replaced.get(line.strip(), [line]))


def exports(values: Mapping[str, str]) -> list[str]:
    """Lines that set variables."""
    return [f"export {name}={bash_word(value)}" for name, value in values.items()]


def defaults(values: Mapping[str, str]) -> list[str]:
    """Lines that set variables which are not set yet, not even to nothing."""
    return [f"export {name}=${{{name}-{bash_word(value)}}}" for name, value in values.items()]


def bash_word(text: str) -> str:
    """A word as bash reads it back, on one line: sbatch refuses a script with a carriage return and a newline in it."""
    if not re.search(r"[\x01-\x1f\x7f]", text):
        return shlex.quote(text)
    escaped = re.sub(r"[\\'\x01-\x1f\x7f]", lambda match: f"\\{ord(match[0]):03o}", text)
    return f"$'{escaped}'"
