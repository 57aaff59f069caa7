"""A rank's private directory by another name; and at the end: what the user made is kept, all else is removed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from rayhpc import paths
from rayhpc.model import HEAD_RANK, Assignment
from rayhpc.records import run_directory

# A clone of an environment, which runtime_env={"pip": ...} makes, has tens of thousands of files: its removal takes
# longer than all else at the end.
_PATIENCE_SECONDS = 2.0
_REMOVED = ".removed"
# A scheduler that finds a process at the end sends SIGTERM, and SIGKILL half a minute later (Slurm's KillWait).
_REMOVER = ("sh", "-c", "trap '' HUP INT TERM; exec rm -rf -- \"$1\"", "sh")


def link(assignment: Assignment) -> list[str]:
    """On a host without rank 0: a link, which is returned, from where rank 0's directory is on its host to this one's.

    A driver may give its whole environment to its workers (NeMo-RL does); the paths of its secrets are then right on
    every host. Not to be called before rank 0 has its directory, since hosts may share the one for all of them.
    """
    name = _link(assignment)
    if name is None or assignment.node is None:
        return []
    try:
        name.symlink_to(assignment.node.temp_dir)
    except FileExistsError:  # another rank of this host was first, or this one before a restart
        return [str(name)] if _is_own(name, assignment) else []
    except OSError:
        return []  # a file system without links: what else is done here needs none
    return [str(name)]


def unlink(assignment: Assignment) -> None:
    """Remove this rank's link, if it has made one."""
    name = _link(assignment)
    if name is not None and _is_own(name, assignment):
        name.unlink(missing_ok=True)


def _link(assignment: Assignment) -> Path | None:
    """The link's path; None on rank 0's host."""
    node = assignment.node
    if node is None or node.rank == HEAD_RANK or node.address == assignment.head_address:
        return None
    return Path(paths.private_dir(str(Path(node.temp_dir).parent), assignment.run_id, HEAD_RANK))


def _is_own(name: Path, assignment: Assignment) -> bool:
    return assignment.node is not None and name.is_symlink() and str(name.readlink()) == assignment.node.temp_dir


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
    argv = [*_REMOVER, str(gone)]
    try:
        remover = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True)
        remover.wait(_PATIENCE_SECONDS)
    except OSError:  # an image without a shell, or a host on which no process can be started any more
        shutil.rmtree(gone, ignore_errors=True)
    except subprocess.TimeoutExpired:
        return []
    return [f"{gone} could not be removed"] if gone.exists() else []
