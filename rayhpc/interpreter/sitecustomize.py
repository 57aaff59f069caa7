"""Holds a Python back before its program, and imports meanwhile what Ray's import needs of the standard library.

Python itself imports this when it starts, since PYTHONPATH begins with its directory. One byte on standard input lets
the program go on; end of file ends it. The program finds all as it would without this, but for what is imported
already: the environment, sys.path, nothing to read from standard input, and the sitecustomize that Python would have
found. Nothing of the user's has run before that byte.
"""

from __future__ import annotations

import os
import sys

# Almost a third of Ray's import. Not Ray itself, which reads variables that the program may still set, nor the packages
# that Ray needs, which the program may want from elsewhere: it may change sys.path.
NEEDED = (
    "asyncio", "csv", "ctypes", "decimal", "fractions", "html", "http.cookiejar", "http.cookies", "importlib.metadata",
    "importlib.resources", "json", "logging.handlers", "multiprocessing", "pathlib", "pdb", "secrets", "shlex",
    "stringprep", "tarfile", "tracemalloc", "uuid", "zipfile",
)  # fmt: skip
_NAME = "sitecustomize"
_PATH = "PYTHONPATH"


def main() -> None:
    """Import, wait for the word, be as if this had not been."""
    if sys.stdlib_module_names.isdisjoint(modules_beside(sys.orig_argv[2:])):
        import_needed()
    wait()
    step_aside()
    import_next()


def modules_beside(program: list[str]) -> set[str]:
    """Names that Python looks for in the program's own directory first; program: `-m` NAME or a file, …."""
    directory = os.curdir if program[0] == "-m" else os.path.dirname(os.path.realpath(program[0]))  # noqa: PTH120
    try:
        return {name.partition(".")[0] for name in os.listdir(directory)}
    except OSError:
        return set()  # Python finds no module there either


def import_needed() -> None:
    """As far as it can be; whoever needs the rest will hear why it cannot."""
    for name in NEEDED:
        try:
            __import__(name)
        except Exception:  # of a module of this name that PYTHONPATH names
            continue


def wait() -> None:
    """Return once the program may go on, with nothing to read from standard input."""
    try:
        word = os.read(0, 1)
    except KeyboardInterrupt:
        word = b""
    if not word:
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def step_aside() -> None:
    """Take this directory from where Python looks for modules, here and in what the program starts."""
    own = os.path.dirname(__file__)  # noqa: PTH120 - pathlib is not imported with Python
    sys.path[:] = [place for place in sys.path if place != own]
    others = [place for place in os.environ.pop(_PATH, own).split(os.pathsep) if place != own]
    if others:
        os.environ[_PATH] = os.pathsep.join(others)


def import_next() -> None:
    """The sitecustomize of the user or of the site, if there is one; raises what it raises, for Python to tell."""
    own = sys.modules.pop(_NAME)
    try:
        __import__(_NAME)
    except ModuleNotFoundError as error:
        if error.name != _NAME:
            raise
    finally:
        sys.modules.setdefault(_NAME, own)  # Python looks for what it has imported


if __name__ == _NAME:
    main()
