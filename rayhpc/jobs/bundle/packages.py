"""Packages of the user's that a job brings along: installed here, so that all its processes have them on all hosts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rayhpc.errors import RayhpcError, configuration
from rayhpc.jobs.bundle.excludes import left_out

_INSTALL_SECONDS = 600.0
_SHOWN_LINES = 8


def install_packages(sources: Sequence[str], excludes: Sequence[str], target: Path) -> None:
    """Install local packages into a directory, without what they require; raises RayhpcError with pip's last lines.

    A build writes beside the sources: so it gets a copy of them.
    """
    for source in map(Path, sources):
        with tempfile.TemporaryDirectory(prefix="rayhpc-package-") as scratch:
            _pip(_copy(source, Path(scratch), excludes) if source.is_dir() else source, source, target)


def _copy(source: Path, scratch: Path, excludes: Sequence[str]) -> Path:
    def ignored(folder: str, names: list[str]) -> list[str]:
        place = PurePosixPath(folder).relative_to(source)
        return [name for name in names if left_out(place / name, Path(folder, name).is_dir(), excludes)]

    try:
        return Path(shutil.copytree(source, scratch / source.name, symlinks=True, ignore=ignored))
    except OSError as error:  # also shutil.Error, which names all files
        why = error.strerror or str(error.args[0])[:200]
        raise _failed(source, (why,), f"ls -ld {source}") from error


def _pip(source: Path, named: Path, target: Path) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--no-compile",
            "--disable-pip-version-check", "--target", str(target), str(source)]  # fmt: skip
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=_INSTALL_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        step = "pip may wait for an index: build a wheel where it is reached (pip wheel --no-deps .), and name that"
        raise _failed(named, (f"pip has not ended within {_INSTALL_SECONDS:g} s",), step) from error
    if done.returncode:
        lines = [line[:200] for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        pip = "python -m ensurepip" if "No module named pip" in done.stderr else f"try it: pip install {named}"
        raise _failed(named, tuple(lines[-_SHOWN_LINES:]), pip)


def _failed(source: Path, evidence: Sequence[str], step: str) -> RayhpcError:
    return configuration(
        f"the package {source} cannot be installed", *evidence, next_step=f"{step}; nothing was submitted"
    )
