"""Classes and functions that a configuration names: module:name, file.py:name, or Hydra's _target_."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rayhpc.rllib.errors import UsageError


def load(name: str) -> Any:
    """What module:name or file.py:name stands for; UsageError where it is not there."""
    where, _, attribute = name.rpartition(":")
    module = module_of(where)
    if not hasattr(module, attribute):
        there = ", ".join(found for found in vars(module) if not found.startswith("_"))
        raise UsageError(f"{name}: {where} has no {attribute}; it has {there}")
    return getattr(module, attribute)


def module_of(where: str) -> ModuleType:
    """The module of this name or file. Workers import it too: the file's directory is put on their path."""
    path = Path(where)
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"{where}: there is no such file")
        importable_from(path.resolve().parent)
        where = path.stem
    importable_from(Path.cwd())
    try:
        return importlib.import_module(where)
    except Exception as problem:
        raise UsageError(f"{where} cannot be imported: {type(problem).__name__}: {problem}") from problem


def importable_from(folder: Path) -> None:
    """Put a directory on the path of this process, and of those that Ray starts for it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH", "")
    if str(folder) not in before.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))


def instantiated(value: Any) -> Any:
    """The value with every {_target_: …} in it made into what it describes; UsageError where that fails."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    if isinstance(value, list):
        return [instantiated(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {name: instantiated(each) for name, each in value.items()}
    importable_from(Path.cwd())
    try:
        return instantiate(dict(value), _convert_="all")
    except HydraException as problem:
        raise UsageError(f"_target_: {value['_target_']}: {problem}") from problem
