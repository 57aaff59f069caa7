"""Holds a Python back before its program, and imports meanwhile what Ray's import needs of others.

Python itself imports this when it starts, since PYTHONPATH begins with its directory. One byte on standard input lets
the program go on; end of file ends it. Then all is as without this: the environment, sys.path, standard input, and
the sitecustomize that Python would have found.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys

# What Ray imports when it is imported, and at the first task, as far as that reads no variable: the program may still
# set some. Ray itself reads a hundred; numpy, protobuf, msgpack and psutil read one or two.
NEEDED = ("asyncio", "requests", "jsonschema", "yaml", "filelock", "packaging.version", "pdb", "tarfile", "pydantic")
_NAME = "sitecustomize"


def main() -> None:
    """Import, wait for the word, leave no trace."""
    before = set(sys.modules)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of a program that never began
    for name in NEEDED:
        with contextlib.suppress(Exception):  # whoever needs it will hear why it cannot be imported
            importlib.import_module(name)
    wait()
    signal.signal(signal.SIGINT, interrupted)
    step_aside()
    if not modules_beside(sys.orig_argv[2:]).isdisjoint(top_level(set(sys.modules) - before)):
        os.execv(sys.executable, sys.orig_argv)
    import_next()


def wait() -> None:
    """Return once the program may go on, with nothing to read from standard input, as if it had never been a pipe."""
    if not os.read(0, 1):
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def step_aside() -> None:
    """Take this directory from where Python looks for modules, in the program and in what it starts."""
    own, _, others = os.environ["PYTHONPATH"].partition(os.pathsep)
    sys.path.remove(own)
    if others:
        os.environ["PYTHONPATH"] = others
    else:
        del os.environ["PYTHONPATH"]


def modules_beside(program: list[str]) -> set[str]:
    """Names that Python would look for in the program's own directory first; program: `-m` NAME or a file, …."""
    directory = os.curdir if program[0] == "-m" else os.path.dirname(os.path.realpath(program[0]))  # noqa: PTH120
    try:
        return top_level(set(os.listdir(directory)))
    except OSError:
        return set()  # Python finds no module there either


def top_level(names: set[str]) -> set[str]:
    """The first parts of dotted names."""
    return {name.partition(".")[0] for name in names}


def import_next() -> None:
    """The sitecustomize of the user or of the site, if there is one; raises what it raises, for Python to tell."""
    own = sys.modules.pop(_NAME)
    try:
        importlib.import_module(_NAME)
    except ModuleNotFoundError as error:
        if error.name != _NAME:
            raise
    finally:
        sys.modules.setdefault(_NAME, own)  # Python looks for what it has imported


if __name__ == _NAME:
    main()
