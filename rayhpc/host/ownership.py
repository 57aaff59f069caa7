"""Who, besides us and root, could read what we write, or put something of his own in its place."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

# The owner that a rootless container shows for what belongs to root outside.
_UNMAPPED = 65534


def not_ours_alone(found: os.stat_result) -> str:
    """Why a file or directory is not for us alone, by its owner and mode; empty if it is."""
    if found.st_uid != os.getuid():
        return "it belongs to another account"
    return f"others may use it (mode {found.st_mode & 0o777:03o})" if found.st_mode & 0o077 else ""


def ruled_by_others(directory: Path) -> str:
    """Why somebody else could replace what we make in a directory; empty if nobody can; raises OSError.

    Whoever may write in any directory above it may rename what lies there, unless that has the sticky bit; so may the
    owner of the directory itself, and of a link on the way to it.
    """
    named = directory.absolute()
    for link in (path for path in (named, *named.parents) if path.is_symlink()):
        if not _trusted(link.lstat()):
            return f"the link {link} belongs to another account"
    if not _trusted(named.stat()):
        return f"{named} belongs to another account"
    real = [path.resolve() for path in (named, *named.parents)]
    for place in dict.fromkeys(above for path in real for above in (path, *path.parents)):
        if _open_to_others(place.stat()):
            return f"{place} is writable for others without the sticky bit"
    return ""


def _trusted(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.getuid(), _UNMAPPED)


def _open_to_others(found: os.stat_result) -> bool:
    by_others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid))
    return bool(by_others) and not found.st_mode & stat.S_ISVTX


def _is_own_group(gid: int) -> bool:
    """Whether a group has no member but us, as where each account has a group of its name (and a umask of 002)."""
    try:
        account, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    named_alike = account.pw_gid == gid and gid != 0 and group.gr_name == account.pw_name
    return named_alike and set(group.gr_mem) <= {account.pw_name}
