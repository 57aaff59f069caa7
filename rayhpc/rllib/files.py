"""Files and directories that are whole or absent, whenever the process is killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

PARTIAL = ".partial-"


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: its readers see the old one or the new one."""
    partial = path.with_name(PARTIAL + path.name)
    partial.write_bytes(content)
    flush(partial)
    partial.replace(path)


def flush(path: Path) -> None:
    """Wait until a file or directory is on the disk, so that it outlives a crash of the host too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_name(path: Path) -> Path:
    """Its name while a directory is not whole; what an earlier run left under that name is deleted."""
    name = path.with_name(PARTIAL + path.name)
    if name.exists():
        shutil.rmtree(name)
    return name


def json_text(value: Mapping[str, object]) -> str:
    """Readable JSON; raises ValueError for NaN, which JSON does not have."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
