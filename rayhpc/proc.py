"""Children and all that descends from them: started, signalled and ended through a keeper."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayhpc import keeper

Ladder = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Order:
    """What a keeper runs and how it ends it; see rayhpc.keeper. stdout, stderr: open file descriptors.

    label: what `ps` shows beside the keeper's name.
    """

    label: str
    argv: Sequence[str]
    env: Mapping[str, str]
    stdout: int
    stderr: int
    ladder: Ladder = ()
    orphan_ladder: Ladder = ()
    linger: float = 0.0
    ignored: Sequence[int] = ()
    cwd: str | None = None
    remove: Sequence[str] = field(default=())


class Child:
    """A command under its keeper.

    code: None while the command runs, else its exit code or -signal; gone: True once no descendant is left;
    failed: errno and text where it could not be executed; killed: processes that had to be killed; left: those that
    survived even SIGKILL (in the kernel, on a dead file system).
    """

    def __init__(self, order: Order) -> None:
        self.code: int | None = None
        self.gone = False
        self.failed: tuple[int, str] | None = None
        self.killed = 0
        self.left = 0
        self.pid = 0
        self._buffer = b""
        outputs = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in (order.stdout, order.stderr)]
        try:
            self._keeper = _start_keeper(order.label, outputs)
        finally:
            for number in outputs:
                os.close(number)
        os.set_blocking(self.fileno(), False)
        self._tell(
            argv=[_spelt(word) for word in order.argv],
            env={_spelt(key): _spelt(value) for key, value in order.env.items()},
            cwd=_spelt(order.cwd or str(Path.cwd())),
            stdout=outputs[0],
            stderr=outputs[1],
            ladder=order.ladder,
            orphan_ladder=order.orphan_ladder,
            linger=order.linger,
            ignored=list(order.ignored),
            remove=[_spelt(directory) for directory in order.remove],
        )

    def fileno(self) -> int:
        """Readable when poll() has something new: for a selector."""
        assert self._keeper.stdout is not None
        return self._keeper.stdout.fileno()

    @property
    def keeper_pid(self) -> int:
        """The keeper's own process id."""
        return self._keeper.pid

    def poll(self) -> bool:
        """Take in the keeper's reports; True once the command has ended or could not be executed."""
        closed = self._read()
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._note(json.loads(line))
        if closed and not self.gone:
            self._keeper_ended()
        return self.code is not None or self.failed is not None

    def signal(self, signum: int) -> None:
        """Send a signal to the command alone, not to its descendants."""
        self._tell(signal=signum)

    def end(self) -> None:
        """Begin to end the command and all its descendants: the ladder, then SIGKILL; poll() until `gone`.

        A keeper that somebody has stopped is continued: nobody else would end what it keeps.
        """
        self._tell(end=True)
        self._keeper.send_signal(signal.SIGCONT)  # unless it was waited for: its pid may be somebody else's by now

    def _note(self, report: dict[str, int | str]) -> None:
        if "pid" in report:
            self.pid = int(report["pid"])
        if "failed" in report:
            self.failed = (int(report["failed"]), str(report["text"]))
        if "ended" in report:
            self.code = int(report["ended"])
        if "gone" in report:
            self.killed = int(report["gone"])
            self.left = int(report["left"])

    def _read(self) -> bool:
        """Read all there is; True once the pipe is closed."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.fileno(), 65536):
                self._buffer += chunk
            return True
        return False

    def _keeper_ended(self) -> None:
        """All is gone; or somebody killed the keeper, and PR_SET_PDEATHSIG the command."""
        self._keeper.wait()
        self.gone = True
        if self.code is None and self.failed is None:
            self.code = -signal.SIGKILL

    def _tell(self, **message: object) -> None:
        assert self._keeper.stdin is not None
        # A keeper that has gone has nothing left to end; poll() notices.
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(json.dumps(message).encode() + b"\n")
            self._keeper.stdin.flush()


def _start_keeper(label: str, outputs: list[int]) -> subprocess.Popen[bytes]:
    """A keeper that waits for its order; the descriptors in `outputs` are open in it under the same numbers.

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


def _spelt(text: str) -> str:
    """The bytes of an argument, one character each: they survive JSON whatever the locale."""
    return os.fsencode(text).decode("latin-1")


def sweep(marker: str, own: frozenset[int]) -> int:
    """SIGKILL every process of this user whose environment holds the marker `NAME=value`; how many there were.

    For what has left our tree because a keeper was killed. own: pids that are spared.
    """
    needle = marker.encode()
    killed = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in own:
            # Other people's environments are unreadable, and a process may end meanwhile.
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    killed += keeper.send(int(entry.name), signal.SIGKILL)
    return killed
