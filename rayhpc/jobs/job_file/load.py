"""`job.yaml` becomes a JobRequest; all that is wrong with it is told at once, each with its line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode

from rayhpc import units
from rayhpc.errors import configuration
from rayhpc.jobs.job_file import old_names
from rayhpc.jobs.job_file.document import BrokenError, Document, Problem, Reader, compose, raw, refusal, short
from rayhpc.jobs.job_file.variables import Variables, settings
from rayhpc.jobs.request import JobRequest
from rayhpc.user_input import files

_ENV_FILE = ".env"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Said:
    """What the command line says beside a file. env_file: in the place of the file's; public: names of no secrets.

    arguments: for the script, after those of the file.
    """

    environ: Mapping[str, str] = field(repr=False)
    env_file: Path | None = None
    public: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def load(file: Path, said: Said) -> JobRequest:
    """The job of a file; raises RayhpcError with all that is wrong with it. Without an env_file: .env beside it."""
    return parse(read_text(file), file, said)


def composed(file: Path, text: str, said: Said, beside: str = "") -> tuple[Node, Variables]:
    """A file's tree, and the variables that it may name; raises RayhpcError. beside: its env_file, if none is named."""
    folder = file.absolute().parent
    try:
        node = compose(text)
    except BrokenError as broken:
        shown = _variables(None, folder, said, beside).mask(broken.text)
        raise refusal(str(file), [Problem(broken.line, shown)]) from broken
    return node, _variables(node, folder, said, beside)


def _variables(node: Node | None, folder: Path, said: Said, beside: str) -> Variables:
    """env_file and not_secret must be known before the texts are read."""
    named = raw(node, "env_file")
    own = folder / os.path.expanduser(Variables(said.environ).expand(named[0]).text) if named else None  # noqa: PTH111
    default = folder / beside if beside and (folder / beside).is_file() else None
    public = frozenset([*raw(node, "not_secret"), *said.public])
    return Variables(said.environ, secrets_of(said.env_file or own or default), public)


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


def parse(text: str, file: Path, said: Said) -> JobRequest:
    """The job that a text describes; paths in it are relative to the file. Raises RayhpcError as load() does."""
    node, variables = composed(file, text, said, _ENV_FILE)
    document = Document(file.absolute().parent, variables)
    known = document.renamed(node, old_names.RENAMED, old_names.REFUSED)
    request = _request(document, document.values(known, "the file", _READERS), said.arguments)
    if document.problems:
        raise refusal(str(file), document.problems)
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


def _lines(document: Document, node: Node, what: str) -> tuple[str, ...] | None:
    """A list of shell lines; one text is one entry."""
    if isinstance(node, ScalarNode):
        text = document.text(node, what)
        return None if text is None else (text,)
    return _texts(document, node, what)


def _patterns(document: Document, node: Node, what: str) -> tuple[str, ...] | None:
    found = _texts(document, node, what)
    if any(pattern.startswith("!") for pattern in found or ()):
        document.note(node, f"{what}: nothing is taken in again with !")
    return found


@dataclass(frozen=True)
class _Mounts:
    """(local, remote) pairs, and what of the local ones is a package to be installed."""

    places: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()


def _mounts(document: Document, node: Node, what: str) -> _Mounts:
    """What there is, and places of their own: `local: remote`, or `local: {to: remote, install: true}`."""
    found: list[tuple[str, str]] = []
    packages: list[str] = []
    for name, key, value in document.pairs(node, what):
        local = _local(document, key)
        place: Node | None = value
        if isinstance(value, MappingNode):
            read = document.values(value, short(name), {"to": lambda _, place, __: place, "install": Document.flag})
            place = read["to"][1] if "to" in read else None
            if read.get("install", (value, False))[1]:
                packages += [local] if local and _is_package(document, key, name, Path(local)) else []
            elif place is None:
                document.note(value, f"{short(name)} needs a place: to: /tmp/x, or install: true")
        remote = _remote(document, place) if place is not None else None
        clash = remote and next((other for _, other in found if _overlap(PurePosixPath(remote), other)), None)
        if clash:
            document.note(value, f"{short(str(remote))} and {short(clash)} are in each other's place")
        elif local and remote:
            found.append((local, remote))
    return _Mounts(tuple(found), tuple(packages))


def _is_package(document: Document, node: Node, name: str, place: Path) -> bool:
    if place.suffix == ".whl" or any((place / name).is_file() for name in ("pyproject.toml", "setup.py")):
        return True
    document.note(node, f"{short(name)} is no package to install: it has no pyproject.toml or setup.py")
    return False


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
            secrets += [name] if found[1] or document.hides(name) else []
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
    "init_commands": _lines,
    "environment": _environment,
    "resources": _resources,
    "env_file": Document.text,
    "not_secret": _words,
    "user_id": Document.text,
    "py_executable": Document.text,
    "excludes": _patterns,
}


def _request(document: Document, values: dict[str, tuple[Node, Any]], arguments: Sequence[str]) -> JobRequest:
    """What the keys make together; of use only if there is no problem."""
    read = {name: value for name, (_, value) in values.items()}
    environment, secrets = read.get("environment", ({}, ()))
    mounts = read.get("file_mounts") or _Mounts()
    return JobRequest(
        entrypoint=_entrypoint(document, values, arguments),
        environment=environment,
        resources=read.get("resources", {}),
        working_dir=_started_in(document, values) or "",
        mounts=mounts.places,
        init=read.get("init_commands") or (),
        secrets=secrets,
        packages=mounts.packages,
        excludes=read.get("excludes") or (),
        py_executable=read.get("py_executable") or "",
        user=read.get("user_id") or "",
        hints=tuple(document.hints),
    )


def _entrypoint(document: Document, values: dict[str, tuple[Node, Any]], more: Sequence[str]) -> str:
    script, command, args = (values.get(name) for name in ("script", "command", "args"))
    if script is None and command is None:
        document.problems.append(Problem(1, "neither script nor command says what to run"))
    if script and command:
        document.note(command[0], "script and command say the same thing: give one")
    if command and more:
        document.note(command[0], "a command takes no arguments of the command line: say script in its place")
    if args and not script:
        document.note(args[0], "args belong to a script: write them into the command")
    if script and script[1] is not None:
        program = _program(document, *script, _started_in(document, values))
        python = values["py_executable"][1] if "py_executable" in values else "python"
        runs = f"{python} " if script[1].endswith(".py") else ""
        return runs + shlex.join([program, *(args[1] or () if args else ()), *more])
    return str(command[1]) if command else ""


def _started_in(document: Document, values: dict[str, tuple[Node, Any]]) -> str | None:
    """The working directory: that of the file, if none is named."""
    return values["working_dir"][1] if "working_dir" in values else os.path.normpath(document.folder)


def _program(document: Document, node: Node, script: str, directory: str | None) -> str:
    """The word that names a script: a .py is run by the cluster's Python, anything else by itself."""
    if directory and not script.startswith(("/", "~")) and not directory.startswith("~"):
        _check_script(document, node, script, Path(directory, script))
    return script if script.startswith("/") else f"./{script}"


def _check_script(document: Document, node: Node, script: str, path: Path) -> None:
    if not path.is_file():
        document.note(node, f"the script {short(script)} is not in {path.parent}")
    elif not script.endswith(".py") and not os.access(path, os.X_OK):
        document.note(node, f"the script {short(script)} is not executable: chmod +x")
