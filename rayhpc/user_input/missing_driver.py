"""The fault of a driver that is not there: what is there in its place, and which name was perhaps meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from rayhpc.errors import ExitCode, Fault, RayhpcError, shortened

_ALIKE = 0.6
_SHOWN = 8
# A directory on a parallel file system may have a million entries, and each look at one may take a millisecond.
_LISTED = 2000
_ENTERED = 50
_OTHERWISE = "check the name and the path; a batch job may start in another directory than you do"


def file(name: str) -> RayhpcError:
    """127 for a script or a program."""
    path = Path(name)
    place = next(parent for parent in (path.parent, *path.parent.parents, Path("/")) if S_ISDIR(_mode(parent)))
    there, evidence = _listed(place)
    if place != path.parent:
        missing = place / path.relative_to(place).parts[0]
        directories = sorted(entry.name for entry in there if _is_directory(entry))
        evidence = [f"{missing} is no directory that can be entered", *evidence]
        evidence += [f"directories {_where(place)}: {shortened(directories, _SHOWN)}"] if directories else []
        return _fault(f"the driver {name}", evidence, _below(place, path.name))
    drivers = [entry for entry in there if entry.name.endswith(".py") or _is_program(entry)]
    meant = [_typed(place, found) for found in _alike(path.stem, [entry.name for entry in drivers])]
    shown = sorted(entry.name for entry in drivers)
    evidence += [f"drivers {_where(place)}: {shortened(shown, _SHOWN)}"] if shown else []
    return _fault(f"the driver {name}", evidence, meant or _below(place, path.name))


def module(name: str) -> RayhpcError:
    """127 for what `-m` names; only the first part of the name has been looked for."""
    top, dot, rest = name.partition(".")
    there, evidence = _listed(Path())
    names = [entry.name.removesuffix(".py") for entry in there if entry.name.endswith(".py") or _is_package(entry)]
    meant = [f"-m {found}{dot}{rest}" for found in _alike(top, names)]
    return _fault(f"the driver's module {name}", evidence, meant)


def _fault(what: str, evidence: Sequence[str], meant: Sequence[str]) -> RayhpcError:
    return RayhpcError(
        Fault(
            f"{what} was not found",
            ExitCode.NOT_FOUND,
            evidence=(f"working directory: {Path.cwd()}", *evidence),
            next_step=f"did you mean {meant[0]}?" if meant else _OTHERWISE,
        )
    )


def _listed(place: Path) -> tuple[list[os.DirEntry[str]], list[str]]:
    """What can be shown of a directory, and the evidence where it cannot be listed."""
    try:
        with os.scandir(place) as entries:
            return [entry for entry in islice(entries, _LISTED) if entry.name.isprintable()], []
    except OSError as error:
        return [], [f"{place.absolute()} cannot be listed: {error.strerror}"]


def _below(place: Path, name: str) -> list[str]:
    """Files of this name one directory down: examples/train.py for train.py."""
    directories = (Path(entry.path) for entry in _listed(place)[0] if _is_directory(entry))
    return [str(below / name) for below in islice(directories, _ENTERED) if S_ISREG(_mode(below / name))]


def _alike(stem: str, names: Iterable[str]) -> list[str]:
    """The names whose part before the suffix is almost this one, the best first; suffixes would be alike anyway."""
    stems: dict[str, str] = {}
    for name in sorted(names):
        stems.setdefault(Path(name).stem, name)
    return [stems[found] for found in difflib.get_close_matches(stem, stems, cutoff=_ALIKE)]


def _typed(place: Path, name: str) -> str:
    """As the user types it: a program of the working directory needs its ./ in front."""
    return str(place / name) if place != Path() or name.endswith(".py") else f"./{name}"


def _mode(path: Path) -> int:
    """The mode of what is there; 0 where there is nothing, or nothing that this user may see."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _is_program(entry: os.DirEntry[str]) -> bool:
    return S_ISREG(_mode(Path(entry.path))) and os.access(entry.path, os.X_OK)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return S_ISDIR(_mode(Path(entry.path))) and not entry.name.startswith(".")


def _is_package(entry: os.DirEntry[str]) -> bool:
    return S_ISREG(_mode(Path(entry.path, "__init__.py")))


def _where(place: Path) -> str:
    return "here" if place == Path() else f"in {place}"
