"""The errors of the product, found in its source: the text of every Fault and UsageError, with … for a value."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import rayhpc

ROOT = Path(rayhpc.__file__).parent
GAP = "…"


@dataclass(frozen=True)
class Message:
    """One text that an error can have; the module and line that make it."""

    text: str
    place: str


@dataclass
class Module:
    """A parsed file; makers: {function: the place and name of the parameter that becomes the text of an error}."""

    name: str
    tree: ast.Module
    makers: dict[str, tuple[int, str]] = field(default_factory=dict)


Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def messages() -> list[Message]:
    """All of them, each once for each place."""
    modules = [
        Module(str(path.relative_to(ROOT)), ast.parse(path.read_text()))
        for path in sorted(ROOT.rglob("*.py"))
        if "examples" not in path.parts
    ]
    while any(_learn(module) for module in modules):
        pass
    return [message for module in modules for message in _messages(module)]


def _learn(module: Module) -> bool:
    """Find functions that pass a parameter on as the text of an error; True if there was a new one."""
    known = len(module.makers)
    for function in _functions(module.tree):
        parameters = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        parameters = parameters[1:] if parameters[:1] in (["self"], ["cls"]) else parameters
        for what in [name for text in _texts(module, function) for name in _names(text)]:
            if what in parameters and not _assigned(function, what):
                module.makers[function.name] = (parameters.index(what), what)
    return len(module.makers) > known


def _names(what: ast.expr) -> list[str]:
    """The names that an expression can be as a whole."""
    if isinstance(what, ast.IfExp):
        return _names(what.body) + _names(what.orelse)
    return [what.id] if isinstance(what, ast.Name) else []


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _texts(module: Module, within: ast.AST) -> Iterator[ast.expr]:
    """The expression that becomes the text, of each call that makes an error."""
    for call in ast.walk(within):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        place, keyword = module.makers.get(name, (99 if name == "replace" else 0, "what"))
        known = name in ("Fault", "configuration", "replace", "UsageError") or name in module.makers
        if not known or ast.unparse(call.func) == "click.UsageError":  # whose text stands below the usage
            continue
        named = [entry.value for entry in call.keywords if entry.arg == keyword]
        if named or len(call.args) > place:
            yield named[0] if named else call.args[place]


def _messages(module: Module) -> Iterator[Message]:
    for function in _functions(module.tree):
        yield from _lines(function, module)
        inner = {node for each in _functions(function) if each is not function for node in ast.walk(each)}
        for what in _texts(module, function):
            handed_on = module.makers.get(function.name, (0, ""))[1] in _names(what)
            for text in [] if what in inner else _read(what, function, module):
                if text and not (text == GAP and handed_on):  # whoever calls this function has the text
                    yield Message(text, f"{module.name}:{what.lineno}")


def _lines(function: Function, module: Module) -> Iterator[Message]:
    """The lines of an error that says all that is wrong at once: what a function called _wrong_… yields."""
    if function.name.startswith("_wrong_"):
        for node in ast.walk(function):
            if isinstance(node, ast.Yield) and node.value:
                for text in _read(node.value, function, module):
                    yield Message(text, f"{module.name}:{node.lineno}")


def _read(what: ast.expr, function: Function, module: Module) -> list[str]:
    """What an expression can be: more than one text where it depends."""
    match what:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return ["".join(part.value if isinstance(part, ast.Constant) else GAP for part in values)]
        case ast.IfExp(body=body, orelse=other):
            return _read(body, function, module) + _read(other, function, module)
        case ast.Starred(value=value) | ast.Tuple(elts=[value, *_]):
            return _read(value, function, module)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name)):
            made = [entry for entry in _functions(module.tree) if entry.name == name]
            ends = [(each, node.value) for each in made for node in ast.walk(each) if isinstance(node, ast.Return)]
            return [text for each, value in ends if value for text in _read(value, each, module)] or [GAP]
        case ast.Name(id=name):
            found = _assigned(function, name) or _assigned(module.tree, name)
            return [text for value in found for text in _read(value, function, module)] or [GAP]
    return [GAP]


def _assigned(within: ast.AST, name: str) -> list[ast.expr]:
    """All values that a name is given in a function, or at the top of a module."""
    nodes = ast.walk(within) if isinstance(within, Function) else ast.iter_child_nodes(within)
    given = [node for node in nodes if isinstance(node, ast.Assign)]
    return [node.value for node in given if any(getattr(target, "id", "") == name for target in node.targets)]
