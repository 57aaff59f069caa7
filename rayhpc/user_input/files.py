"""Files that the user names: read if they are files, and of a size that such a file may have."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Job files, .env files, address files and the like are written by hand; a command of 128 KiB is more than Linux takes.
LIMIT = 256 * 2**10
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_bytes(file: Path, limit: int = LIMIT) -> bytes:
    """The content of a file; raises OSError at once, also for a device, a FIFO, or more than `limit` bytes."""
    check_kind(file, file.stat().st_mode)
    # A FIFO that has come into its place would block.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        found = os.fstat(stream.fileno())
        check_kind(file, found.st_mode)
        content = stream.read(limit + 1) if found.st_size <= limit else b""
    if max(found.st_size, len(content)) > limit:
        size = f"{_kib(found.st_size)} KiB" if found.st_size > limit else "endless"
        raise OSError(errno.EFBIG, f"it is {size}, and such a file has at most {_kib(limit)} KiB", str(file))
    return content


def read_text(file: Path, limit: int = LIMIT) -> str:
    """The text of a file; raises as read_bytes() does, and UnicodeDecodeError for what is no UTF-8."""
    return read_bytes(file, limit).decode("utf-8")


def check_kind(file: Path, mode: int) -> None:
    """Raises OSError for what is no ordinary file, saying what it is."""
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "none")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"it is {kind}, no file", str(file))


def _kib(size: int) -> int:
    return -(-size >> 10)
