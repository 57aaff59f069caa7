"""Checkpoints: written under another name and renamed, so that each one that is found is whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rayhpc.rllib.files import PARTIAL, flush, json_text, partial_name
from rayhpc.rllib.metrics import CSV_HEADER, Row, csv_lines


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself; it is written last, so a directory without it is no checkpoint."""

    env: str
    iteration: int
    timesteps: int
    seconds: float
    last_returns: list[float]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: RLlib's own in `algorithm`, metrics.csv up to here, and the manifest."""

    path: Path
    manifest: Manifest


def checkpoint_at(path: Path) -> Checkpoint | None:
    """The checkpoint in this directory; None if it is none, or not a complete one."""
    if path.resolve().name.startswith(PARTIAL):
        return None
    try:
        return Checkpoint(path, Manifest(**json.loads((path / "manifest.json").read_text())))
    except (OSError, ValueError, TypeError):
        return None


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of an output directory, the newest last."""
    named = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    found = (checkpoint_at(path) for path in named)
    return sorted(filter(None, found), key=lambda checkpoint: checkpoint.manifest.iteration)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The complete checkpoint of an output directory that has the most iterations."""
    return next(reversed(checkpoints_in(folder)), None)


def write_checkpoint(
    folder: Path, manifest: Manifest, rows: Sequence[Row], save_to: Callable[[str], object]
) -> Checkpoint:
    """Write under another name, flush, rename: a kill at any moment leaves only whole checkpoints."""
    final = folder / f"checkpoint-{manifest.iteration:06d}"
    if final.exists():
        delete_checkpoint(final)
    partial = partial_name(final)
    partial.mkdir()
    save_to(str((partial / "algorithm").resolve()))
    (partial / "metrics.csv").write_text(CSV_HEADER + csv_lines(rows))
    (partial / "manifest.json").write_text(json_text(asdict(manifest)))
    for path in (*partial.rglob("*"), partial):
        flush(path)
    partial.rename(final)
    flush(folder)
    return Checkpoint(final, manifest)


def delete_checkpoint(path: Path) -> None:
    """Rename, then delete: a kill at any moment leaves nothing that looks complete and is not."""
    shutil.rmtree(path.rename(partial_name(path)))
