"""A rank's private directory at the end: what the user made is kept, all else is removed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rayhpc import paths
from rayhpc.records import run_directory

# A clone of an environment, which runtime_env={"pip": ...} makes, has tens of thousands of files: its removal takes
# longer than all else at the end.
_PATIENCE_SECONDS = 2.0
_REMOVED = ".removed"
# A scheduler that finds a process at the end sends SIGTERM, and SIGKILL half a minute later (Slurm's KillWait).
_REMOVER = ("sh", "-c", "trap '' HUP INT TERM; exec rm -rf -- \"$1\"", "sh")


def keep_timelines(private: Path, run_dir: Path) -> list[str]:
    """Move what `ray timeline` wrote into the run directory; in words what went wrong."""
    problems = []
    for found in sorted(Path(paths.ray_temp_dir(str(private))).glob("ray-timeline-*.json")):
        try:
            run_directory.write_whole(run_dir / found.name, found.read_bytes())
        except OSError as error:
            problems.append(f"{found.name} could not be kept in {run_dir}: {error.strerror}")
    return problems


def remove(private: Path) -> list[str]:
    """Remove the directory; in words what went wrong.

    Its name is free at once. What takes longer than two seconds goes on without this process: nobody waits for it.
    """
    try:
        gone = private.rename(private.with_name(private.name + _REMOVED))
    except FileNotFoundError:
        return []
    except OSError:
        gone = private
    null = subprocess.DEVNULL
    remover = subprocess.Popen(
        [*_REMOVER, str(gone)], stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True
    )
    try:
        remover.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    return [f"{gone} could not be removed"] if gone.exists() else []
