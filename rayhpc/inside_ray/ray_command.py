"""Ray's command, which imports Ray first and reads what to do afterwards: JSON on standard input, or nothing at all.

arguments: of `ray`; environment: variables that this process does not have yet; log: the file for what it prints.

The import is almost all that `ray start` costs, so this program is started early. It is run by its path: `ray` need not
be on PATH, and the working directory is not on sys.path, where -c and -m would put it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rayhpc.inside_ray import names

# Commands that are not run here: Ray itself works without those that cannot be imported.
_LEFT_OUT = ("ray.util.state.state_cli", "ray.dashboard.modules.job.cli", "ray.serve.scripts")
# What Ray imports to ask a cloud about its accelerators, to check runtime environments, to read files of labels and of
# clusters, and to find out whether it could start its client server. `ray start` seldom does any of it.
_LATE = ("requests", "jsonschema", "yaml", "grpc")


class Late(ModuleType):
    """A package that is imported at the first use of one of its names.

    importlib.util.LazyLoader imports its modules at the second `import` of them (Python 3.11).
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        package = importlib.import_module(self.__name__)
        vars(self).update(vars(package))
        return getattr(package, name)


def spare_imports() -> None:
    """Leave out or put off half of what `ray start` imports, which it can do without."""
    sys.modules.update(dict.fromkeys(_LEFT_OUT))  # type: ignore[arg-type] # None: cannot be imported
    sys.modules.update({name: Late(name) for name in _LATE})


def start_node_table() -> None:
    """Without the patches the node table is read by a program beside this one, with Ray's public functions."""
    path = os.environ.pop(names.NODE_TABLE, "")
    if path:
        subprocess.Popen([sys.executable, str(Path(__file__).with_name("node_table_server.py")), path])


def run(command: Callable[[], None], arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run Ray's command with these arguments; from here on its output goes to the log."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    os.close(output)
    os.environ.update(environment)
    if not _patched():
        start_node_table()
    sys.argv = ["ray", *arguments]
    command()


def _patched() -> bool:
    return names.patched(os.environ, names.installed_version())


def main() -> None:
    """Import, read the order, run it."""
    here = str(Path(__file__).parent)
    if sys.path[0] == here:  # not with PYTHONSAFEPATH
        del sys.path[0]
    if _patched():
        spare_imports()
    from ray.scripts import scripts

    order = sys.stdin.read()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if order:
        run(scripts.main, **json.loads(order))


if __name__ == "__main__":
    main()
