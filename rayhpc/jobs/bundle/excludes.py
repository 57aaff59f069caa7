"""What is left out of directories that a job brings along: patterns as in .gitignore, but for `!`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath


def left_out(path: PurePosixPath, directory: bool, patterns: Sequence[str]) -> bool:
    """True for a relative path that a pattern names: by its name alone, or from the top where it has a slash.

    `*` stands for anything, also for slashes; a pattern that ends with a slash names directories alone.
    """
    for pattern in patterns:
        name = pattern.rstrip("/")
        if pattern.endswith("/") and not directory:
            continue
        whole = "/" in name
        if fnmatchcase(str(path) if whole else path.name, name.removeprefix("/").removeprefix("./")):
            return True
        if whole and name.startswith("**/") and fnmatchcase(str(path), name.removeprefix("**/")):
            return True
    return False
