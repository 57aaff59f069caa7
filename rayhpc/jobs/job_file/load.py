"""`job.yaml` becomes a JobRequest; all that is wrong with it is told at once, each with its line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from yaml.nodes import Node

from rayhpc import units
from rayhpc.errors import configuration
from rayhpc.jobs.job_file.sheet import BrokenError, Problem, Reader, Sheet, compose, refusal, short
from rayhpc.jobs.job_file.variables import Variables, settings
from rayhpc.jobs.request import JobRequest

_ENV_FILE = ".env"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load(file: Path, environ: Mapping[str, str], env_file: Path | None = None) -> JobRequest:
    """The job of a file; raises RayhpcError with all that is wrong with it. env_file: else .env beside it, if any."""
    text = read_text(file)
    beside = file.parent / _ENV_FILE
    chosen = env_file or (beside if beside.is_file() else None)
    secrets = secrets_of(chosen)
    return parse(text, str(file), file.absolute().parent, Variables(environ, secrets))


def read_text(file: Path) -> str:
    """The text of a file that the user named; raises RayhpcError."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise configuration(
            f"{file} cannot be read: {error.strerror}", f"working directory: {Path.cwd()}", next_step=f"ls -l {file}"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise refusal(str(file), [Problem(line, "bytes that are no UTF-8")]) from error


def secrets_of(file: Path | None) -> dict[str, str]:
    """What an .env file sets, if there is one; raises RayhpcError with the lines that set nothing."""
    if file is None:
        return {}
    found = settings(read_text(file))
    if found.wrong:
        raise refusal(str(file), [Problem(line, "no NAME=VALUE, or a quote does not end") for line in found.wrong])
    return found.values


def parse(text: str, name: str, folder: Path, variables: Variables) -> JobRequest:
    """The job that a text describes; paths in it are relative to the folder. Raises RayhpcError as load() does."""
    sheet = Sheet(folder, variables)
    try:
        values = sheet.values(compose(text), "the file", _READERS)
        request = _request(sheet, values)
    except BrokenError as broken:
        sheet.problems.append(Problem(broken.line, variables.mask(broken.text)))
    if sheet.problems:
        raise refusal(name, sheet.problems)
    return request


def _directory(sheet: Sheet, node: Node, what: str) -> str | None:
    """Where the job starts: a directory that login and compute hosts share, or one in the home directory there."""
    text = sheet.text(node, what)
    if text is None or text.startswith("~/"):
        return text
    path = os.path.normpath(sheet.path(text))
    if not Path(path).is_dir():
        sheet.note(node, f"{what} {short(text)} is no directory here: a job starts in one that all hosts share")
        return None
    return path


def _words(sheet: Sheet, node: Node, what: str) -> tuple[str, ...] | None:
    return sheet.items(node, what, Sheet.word)


def _texts(sheet: Sheet, node: Node, what: str) -> tuple[str, ...] | None:
    return sheet.items(node, what, Sheet.text)


def _mounts(sheet: Sheet, node: Node, what: str) -> tuple[tuple[str, str], ...]:
    """(local, remote) pairs: what there is, and places of their own."""
    found: list[tuple[str, str]] = []
    for _, key, value in sheet.pairs(node, what):
        local, remote = _local(sheet, key), _remote(sheet, value)
        clash = remote and next((other for _, other in found if _overlap(PurePosixPath(remote), other)), None)
        if clash:
            sheet.note(value, f"{short(str(remote))} and {short(clash)} are in each other's place")
        elif local and remote:
            found.append((local, remote))
    return tuple(found)


def _local(sheet: Sheet, node: Node) -> str | None:
    text = sheet.text(node, "a local path")
    if text is None:
        return None
    path = sheet.path(text)
    if not (path.is_file() or path.is_dir()):
        sheet.note(node, f"{short(text)} is no file or directory here")
        return None
    return os.path.normpath(path)


def _remote(sheet: Sheet, node: Node) -> str | None:
    """A place in the cluster: /absolute, or ~/in the home directory there."""
    text = sheet.text(node, "a remote path")
    if text is None:
        return None
    parts = PurePosixPath(text).parts
    if parts[0] not in ("/", "~") or len(parts) < 2 or ".." in parts or "\n" in text:
        sheet.note(node, f"the remote path {short(text)} must begin with / or ~/, and name a file, without ..")
        return None
    return str(PurePosixPath(text))


def _overlap(path: PurePosixPath, other: str) -> bool:
    return path.is_relative_to(other) or PurePosixPath(other).is_relative_to(path)


def _environment(sheet: Sheet, node: Node, what: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables, and the names of those whose values are secrets."""
    values: dict[str, str] = {}
    secrets: list[str] = []
    for name, key, value in sheet.pairs(node, what):
        if not _NAME.fullmatch(name):
            sheet.note(key, f"{short(name)} is no name of a variable")
        elif found := sheet.scalar(value, name, secret=True):
            values[name] = found[0]
            secrets += [name] if found[1] else []
    return values, tuple(secrets)


def _size(sheet: Sheet, node: Node, what: str) -> int | None:
    text = sheet.word(node, what)
    if text is None:
        return None
    try:
        return units.size(text)
    except ValueError as error:
        sheet.note(node, f"{what}: {error}")
        return None


def _resources(sheet: Sheet, node: Node, what: str) -> dict[str, Any]:
    return {name: value for name, (_, value) in sheet.values(node, what, _RESOURCES).items()}


def _custom(sheet: Sheet, node: Node, what: str) -> dict[str, float | None]:
    return {name: sheet.number(value, name) for name, _, value in sheet.pairs(node, what)}


_RESOURCES: dict[str, Reader] = {
    "num_cpus": Sheet.number,
    "num_gpus": Sheet.number,
    "memory": _size,
    "custom": _custom,
}
_READERS: dict[str, Reader] = {
    "script": Sheet.text,
    "args": _words,
    "command": Sheet.text,
    "working_dir": _directory,
    "file_mounts": _mounts,
    "init_commands": _texts,
    "environment": _environment,
    "resources": _resources,
}


def _request(sheet: Sheet, values: dict[str, tuple[Node, Any]]) -> JobRequest:
    """What the keys make together; of use only if there is no problem."""
    read = {name: value for name, (_, value) in values.items()}
    environment, secrets = read.get("environment", ({}, ()))
    return JobRequest(
        entrypoint=_entrypoint(sheet, values),
        environment=environment,
        resources=read.get("resources", {}),
        working_dir=_started_in(sheet, values) or "",
        mounts=read.get("file_mounts", ()),
        init=read.get("init_commands") or (),
        secrets=secrets,
    )


def _entrypoint(sheet: Sheet, values: dict[str, tuple[Node, Any]]) -> str:
    script, command, args = (values.get(name) for name in ("script", "command", "args"))
    if script is None and command is None:
        sheet.problems.append(Problem(1, "neither script nor command says what to run"))
    if script and command:
        sheet.note(command[0], "script and command say the same thing: give one")
    if args and not script:
        sheet.note(args[0], "args belong to a script: write them into the command")
    if script and script[1] is not None:
        return shlex.join([*_program(sheet, *script, _started_in(sheet, values)), *(args[1] or () if args else ())])
    return str(command[1]) if command else ""


def _started_in(sheet: Sheet, values: dict[str, tuple[Node, Any]]) -> str | None:
    """The working directory: that of the file, if none is named."""
    return values["working_dir"][1] if "working_dir" in values else os.path.normpath(sheet.folder)


def _program(sheet: Sheet, node: Node, script: str, directory: str | None) -> list[str]:
    """The words that run a script: a .py by the cluster's Python, anything else by itself."""
    if directory and not script.startswith(("/", "~")) and not directory.startswith("~"):
        _check_script(sheet, node, script, Path(directory, script))
    word = script if script.startswith("/") else f"./{script}"
    return ["python", word] if script.endswith(".py") else [word]


def _check_script(sheet: Sheet, node: Node, script: str, path: Path) -> None:
    if not path.is_file():
        sheet.note(node, f"the script {short(script)} is not in {path.parent}")
    elif not script.endswith(".py") and not os.access(path, os.X_OK):
        sheet.note(node, f"the script {short(script)} is not executable: chmod +x")
