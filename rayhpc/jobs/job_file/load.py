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
from rayhpc.jobs.job_file.document import BrokenError, Document, Problem, Reader, compose, refusal, short
from rayhpc.jobs.job_file.variables import Variables, settings
from rayhpc.jobs.request import JobRequest
from rayhpc.user_input import files

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
        return files.read_text(file)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise refusal(str(file), [Problem(line, "bytes that are no UTF-8")]) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise configuration(
            f"{file} cannot be read: {why}", f"working directory: {Path.cwd()}", next_step=f"ls -l {file}"
        ) from error


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
    document = Document(folder, variables)
    try:
        values = document.values(compose(text), "the file", _READERS)
        request = _request(document, values)
    except BrokenError as broken:
        document.problems.append(Problem(broken.line, variables.mask(broken.text)))
    if document.problems:
        raise refusal(name, document.problems)
    return request


def _directory(document: Document, node: Node, what: str) -> str | None:
    """Where the job starts: a directory that login and compute hosts share, or one in the home directory there."""
    text = document.text(node, what)
    if text is None or text.startswith("~/"):
        return text
    path = os.path.normpath(document.path(text))
    if not Path(path).is_dir():
        document.note(node, f"{what} {short(text)} is no directory here: a job starts in one that all hosts share")
        return None
    return path


def _words(document: Document, node: Node, what: str) -> tuple[str, ...] | None:
    return document.items(node, what, Document.word)


def _texts(document: Document, node: Node, what: str) -> tuple[str, ...] | None:
    return document.items(node, what, Document.text)


def _mounts(document: Document, node: Node, what: str) -> tuple[tuple[str, str], ...]:
    """(local, remote) pairs: what there is, and places of their own."""
    found: list[tuple[str, str]] = []
    for _, key, value in document.pairs(node, what):
        local, remote = _local(document, key), _remote(document, value)
        clash = remote and next((other for _, other in found if _overlap(PurePosixPath(remote), other)), None)
        if clash:
            document.note(value, f"{short(str(remote))} and {short(clash)} are in each other's place")
        elif local and remote:
            found.append((local, remote))
    return tuple(found)


def _local(document: Document, node: Node) -> str | None:
    text = document.text(node, "a local path")
    if text is None:
        return None
    path = document.path(text)
    if not (path.is_file() or path.is_dir()):
        document.note(node, f"{short(text)} is no file or directory here")
        return None
    return os.path.normpath(path)


def _remote(document: Document, node: Node) -> str | None:
    """A place in the cluster: /absolute, or ~/in the home directory there."""
    text = document.text(node, "a remote path")
    if text is None:
        return None
    parts = PurePosixPath(text).parts
    if parts[0] not in ("/", "~") or len(parts) < 2 or ".." in parts or "\n" in text:
        document.note(node, f"the remote path {short(text)} must begin with / or ~/, and name a file, without ..")
        return None
    return str(PurePosixPath(text))


def _overlap(path: PurePosixPath, other: str) -> bool:
    return path.is_relative_to(other) or PurePosixPath(other).is_relative_to(path)


def _environment(document: Document, node: Node, what: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables, and the names of those whose values are secrets."""
    values: dict[str, str] = {}
    secrets: list[str] = []
    for name, key, value in document.pairs(node, what):
        if not _NAME.fullmatch(name):
            document.note(key, f"{short(name)} is no name of a variable")
        elif found := document.scalar(value, name, secret=True):
            values[name] = found[0]
            secrets += [name] if found[1] else []
    return values, tuple(secrets)


def _size(document: Document, node: Node, what: str) -> int | None:
    text = document.word(node, what)
    if text is None:
        return None
    try:
        return units.size(text)
    except ValueError as error:
        document.note(node, f"{what}: {error}")
        return None


def _resources(document: Document, node: Node, what: str) -> dict[str, Any]:
    return {name: value for name, (_, value) in document.values(node, what, _RESOURCES).items()}


def _custom(document: Document, node: Node, what: str) -> dict[str, float | None]:
    return {name: document.number(value, name) for name, _, value in document.pairs(node, what)}


_RESOURCES: dict[str, Reader] = {
    "num_cpus": Document.number,
    "num_gpus": Document.number,
    "memory": _size,
    "custom": _custom,
}
_READERS: dict[str, Reader] = {
    "script": Document.text,
    "args": _words,
    "command": Document.text,
    "working_dir": _directory,
    "file_mounts": _mounts,
    "init_commands": _texts,
    "environment": _environment,
    "resources": _resources,
}


def _request(document: Document, values: dict[str, tuple[Node, Any]]) -> JobRequest:
    """What the keys make together; of use only if there is no problem."""
    read = {name: value for name, (_, value) in values.items()}
    environment, secrets = read.get("environment", ({}, ()))
    return JobRequest(
        entrypoint=_entrypoint(document, values),
        environment=environment,
        resources=read.get("resources", {}),
        working_dir=_started_in(document, values) or "",
        mounts=read.get("file_mounts", ()),
        init=read.get("init_commands") or (),
        secrets=secrets,
    )


def _entrypoint(document: Document, values: dict[str, tuple[Node, Any]]) -> str:
    script, command, args = (values.get(name) for name in ("script", "command", "args"))
    if script is None and command is None:
        document.problems.append(Problem(1, "neither script nor command says what to run"))
    if script and command:
        document.note(command[0], "script and command say the same thing: give one")
    if args and not script:
        document.note(args[0], "args belong to a script: write them into the command")
    if script and script[1] is not None:
        program = _program(document, *script, _started_in(document, values))
        return shlex.join([*program, *(args[1] or () if args else ())])
    return str(command[1]) if command else ""


def _started_in(document: Document, values: dict[str, tuple[Node, Any]]) -> str | None:
    """The working directory: that of the file, if none is named."""
    return values["working_dir"][1] if "working_dir" in values else os.path.normpath(document.folder)


def _program(document: Document, node: Node, script: str, directory: str | None) -> list[str]:
    """The words that run a script: a .py by the cluster's Python, anything else by itself."""
    if directory and not script.startswith(("/", "~")) and not directory.startswith("~"):
        _check_script(document, node, script, Path(directory, script))
    word = script if script.startswith("/") else f"./{script}"
    return ["python", word] if script.endswith(".py") else [word]


def _check_script(document: Document, node: Node, script: str, path: Path) -> None:
    if not path.is_file():
        document.note(node, f"the script {short(script)} is not in {path.parent}")
    elif not script.endswith(".py") and not os.access(path, os.X_OK):
        document.note(node, f"the script {short(script)} is not executable: chmod +x")
