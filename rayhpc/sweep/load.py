"""sweep.yaml becomes a Sweep; all that is wrong with it is said at once, each with its line."""

from __future__ import annotations

import ast
import operator
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import Node, ScalarNode, SequenceNode

from rayhpc import units
from rayhpc.jobs.job_file.document import Document, Problem, refusal, short
from rayhpc.jobs.job_file.load import Said, composed, read_text
from rayhpc.sweep import plan
from rayhpc.sweep.plan import Parameter, Reader, Resources, Sweep

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_LARGEST_POWER = 64


def load(file: Path, environ: Mapping[str, str]) -> Sweep:
    """The sweep of a file; raises RayhpcError with all that is wrong with it."""
    node, variables = composed(file, read_text(file), Said(environ))
    document = Document(file.absolute().parent, variables, "env")
    sweep = _sweep(document, _given(document, node, "the file", _READERS), file)
    if document.problems:
        raise refusal(str(file), document.problems)
    return sweep


def _sweep(document: Document, values: dict[str, Any], file: Path) -> Sweep:
    """What the keys make together; of use only if there is no problem."""
    environment = values.pop("env", {})
    given = {name: value for name, value in values.items() if name not in ("env_file", "not_secret")}
    sweep = Sweep(**{"name": file.stem, **given}, directory=str(document.folder), environment=environment)
    if sweep.search == "grid" and sweep.space:
        sweep = Sweep(**{**vars(sweep), "samples": plan.grid_size(sweep.space)})
    for problem in plan.contradictions(sweep):
        document.problems.append(Problem(1, problem))
    return sweep


def _command(document: Document, node: Node, what: str) -> tuple[str, ...] | None:
    """A list of arguments, or one line as for a shell, which runs without one."""
    if isinstance(node, SequenceNode):
        return document.items(node, what, Document.word)
    text = document.text(node, what)
    try:
        return None if text is None else tuple(shlex.split(text))
    except ValueError as error:
        document.note(node, f"{what}: {error}")
        return None


def _tasks(document: Document, node: Node, what: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for name, _, value in document.pairs(node, what):
        command = _command(document, value, name)
        if command:
            found[name] = command
    return found


def _space(document: Document, node: Node, what: str) -> tuple[Parameter, ...]:
    found = [_parameter(document, value, name) for name, _, value in document.pairs(node, what)]
    return tuple(parameter for parameter in found if parameter is not None)


def _parameter(document: Document, node: Node, name: str) -> Parameter | None:
    read = _given(document, node, name, {"type": partial(Document.one_of, choices=plan.KINDS), "values": _values})
    kind, values = read.get("type"), read.get("values")
    if not kind or not values:
        document.note(node, f"{name} needs type and values, as {{type: loguniform, values: [1e-5, 1e-2]}}")
        return None
    wrong = plan.wrong_values(kind, values)
    if wrong:
        document.note(node, f"{name}: {wrong}")
        return None
    return Parameter(name, kind, tuple(values))


def _values(document: Document, node: Node, what: str) -> list[Any] | None:
    """Plain values as YAML has them; 1e-5 is a number too, which YAML takes for text."""
    if not isinstance(node, SequenceNode) or not all(isinstance(entry, ScalarNode) for entry in node.value):
        document.note(node, f"{what} must be a list of single values")
        return None
    return [_plain(entry) for entry in node.value]


def _plain(node: Any) -> Any:
    value = yaml.SafeLoader("").construct_object(node) if node.tag != "tag:yaml.org,2002:str" else node.value
    if isinstance(value, str) and not node.style:
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _amount(document: Document, node: Node, what: str) -> float | None:
    """A number, or arithmetic such as 10*1024**3."""
    text = document.word(node, what)
    if text is None:
        return None
    try:
        value = calculate(text)
    except ValueError as error:
        document.note(node, f"{what}: {error}")
        return None
    if value < 0:
        document.note(node, f"{what} must not be below 0")
    return value


def calculate(text: str) -> float:
    """The value of arithmetic with numbers; raises ValueError for anything else."""
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{short(text)} is no number") from error


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.BinOp(left=left, op=ast.Pow(), right=right) if abs(power := _evaluate(right)) <= _LARGEST_POWER:
            return float(_evaluate(left) ** power)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return float(_OPERATORS[type(op)](_evaluate(left), _evaluate(right)))
    raise ValueError("only numbers and + - * / // ** are understood")


def _memory(document: Document, node: Node, what: str) -> int | None:
    """Bytes: 8G, or arithmetic."""
    text = document.word(node, what)
    try:
        return None if text is None else units.size(text)
    except ValueError:
        amount = _amount(document, node, what)
        return None if amount is None else int(amount)


def _resources(document: Document, node: Node, what: str) -> Resources:
    readers = {"cpus": _amount, "gpus": _amount, "memory": _memory}
    return Resources(**_given(document, node, what, readers))


def _reader(document: Document, node: Node, what: str) -> Reader:
    readers = {"kind": partial(Document.one_of, choices=plan.READERS), "path": Document.text}
    return Reader(**_given(document, node, what, readers))


def _given(document: Document, node: Node, what: str, readers: Mapping[str, Any]) -> dict[str, Any]:
    """What is under the keys that are there and could be read."""
    return {name: value for name, (_, value) in document.values(node, what, readers).items() if value is not None}


def _environment(document: Document, node: Node, what: str) -> dict[str, str]:
    """The variables of the trials, which may be secrets."""
    found = {name: document.scalar(value, name, secret=True) for name, _, value in document.pairs(node, what)}
    return {name: value[0] for name, value in found.items() if value}


def _module(document: Document, node: Node, what: str) -> str | None:
    """The directory of a package, or an archive of one, as an absolute path; or a URI."""
    text = document.text(node, what)
    if text is None or "://" in text:
        return text
    path = document.folder / text
    if not path.exists():
        document.note(node, f"{what}: there is no {path}")
    return str(path)


def _name(document: Document, node: Node, what: str) -> str | None:
    text = document.word(node, what)
    if text is not None and not plan.NAME.fullmatch(text):
        document.note(node, f"{what} must be a name of at most 64 letters, digits, dots, dashes, not {short(text)}")
    return text


_READERS: dict[str, Any] = {
    "name": _name,
    "command": _command,
    "tasks": _tasks,
    "space": _space,
    "metric": Document.text,
    "mode": partial(Document.one_of, choices=("max", "min")),
    "samples": partial(Document.count, least=1),
    "repeat": partial(Document.count, least=1),
    "search": partial(Document.one_of, choices=plan.SEARCHES),
    "scheduler": partial(Document.one_of, choices=plan.SCHEDULERS),
    "seed": Document.count,
    "resources": _resources,
    "processes": partial(Document.count, least=1),
    "nodes": partial(Document.one_of, choices=plan.PLACEMENTS),
    "concurrent": Document.flag,
    "stall": Document.number,
    "max_failures": Document.count,
    "reader": _reader,
    "env": _environment,
    "env_file": Document.text,
    "not_secret": lambda document, node, what: document.items(node, what, Document.word),
    "pip": lambda document, node, what: document.items(node, what, Document.text),
    "py_modules": lambda document, node, what: document.items(node, what, _module),
}
