"""Ray's command, begun before there is anything to say to it: that comes as JSON on standard input, or nothing does.

arguments: of `ray`; environment: variables that this process does not have yet; log: the file that gets what it prints.

Its import is almost all that it costs, so it is begun early and kept small. A program of its own, run by its path:
`ray` need not be on PATH, and the working directory is not on sys.path, where -c and -m would put it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# Commands that are not run here: Ray itself does without those that cannot be imported.
_LEFT_OUT = ("ray.util.state.state_cli", "ray.dashboard.modules.job.cli", "ray.serve.scripts")
# What Ray imports to ask a cloud about its accelerators, to check runtime environments, and to read files of labels and
# of clusters. `ray start` seldom does.
_LATE = ("requests", "jsonschema", "yaml")


class Late(ModuleType):
    """A package that is imported once something of it is wanted.

    importlib.util.LazyLoader imports its modules at the second `import` of them (Python 3.11).
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        package = importlib.import_module(self.__name__)
        vars(self).update(vars(package))
        return getattr(package, name)


def spare_imports() -> None:
    """Leave out or put off what `ray start` can do without: half of what it imports."""
    sys.modules.update(dict.fromkeys(_LEFT_OUT))  # type: ignore[arg-type] # None: cannot be imported
    sys.modules.update({name: Late(name) for name in _LATE})


def obey(command: Callable[[], None], arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run Ray's command as it was told; its words until now went where this process was begun."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    os.close(output)
    os.environ.update(environment)
    sys.argv = ["ray", *arguments]
    command()


def main() -> None:
    """Import, wait for the word, obey."""
    here = str(Path(__file__).parent)
    if sys.path[0] == here:  # not with PYTHONSAFEPATH
        del sys.path[0]
    spare_imports()
    from ray.scripts import scripts

    word = sys.stdin.read()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if word:
        obey(scripts.main, **json.loads(word))


if __name__ == "__main__":
    main()
