"""Keepers (keeper.py) as processes: begun here, told what to do by children.py, for which a rank need not wait."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from rayhpc.processes import keeper

TYPE_CHECKING = False  # typing would be a tenth of what is imported before `ray start` begins
if TYPE_CHECKING:
    from typing import IO


class Keeping:
    """A keeper that waits to be told. outputs: its numbers of the descriptors that its command shall have."""

    def __init__(self, label: str, stdout: int, stderr: int) -> None:
        """Start it; raises OSError. label: what `ps` shows beside its name; stdout, stderr: open here."""
        self.outputs = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in (stdout, stderr)]
        try:
            self.process = _start(label, self.outputs)
        finally:
            for number in self.outputs:
                os.close(number)


class Speaking(Keeping):
    """One whose command speaks into a file without a name, until it knows better."""

    def __init__(self, label: str) -> None:
        self.words = _nameless_file()
        super().__init__(label, self.words.fileno(), self.words.fileno())


def _start(label: str, outputs: list[int]) -> subprocess.Popen[bytes]:
    """The descriptors in `outputs` are open in it under the same numbers.

    LD_LIBRARY_PATH is what an interpreter from a module system may need to find its own libraries.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, label],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=outputs[1],
        pass_fds=outputs,
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        cwd="/",
        start_new_session=True,
    )


def _nameless_file() -> IO[bytes]:
    """A file that is gone with the last process that has it open. Not a pipe, which would stop whoever fills it."""
    if hasattr(os, "memfd_create"):  # not where Python was built for a glibc before 2.27
        return os.fdopen(os.memfd_create("words"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()
