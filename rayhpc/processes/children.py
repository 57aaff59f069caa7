"""Children and all that descends from them: started, signalled and ended through a keeper."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhpc.processes import keeper, polling
from rayhpc.processes.keeper_process import Keeping

# The keeper is Python: its start takes 20 ms, and many seconds on a slow file system.
_MAKE_SECONDS = 60.0

# For a process that is in the kernel, on a dead file system, longer would be in vain.
_SWEEP_SECONDS = 2.0
_SWEEP_POLL_SECONDS = 0.01

Ladder = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Order:
    """What a keeper runs and how it ends it; see keeper.py. fed: its standard input is what feed() gives it."""

    argv: Sequence[str]
    env: Mapping[str, str]
    ladder: Ladder = ()
    orphan_ladder: Ladder = ()
    linger: float = 0.0
    ignored: Sequence[int] = ()
    cwd: str | None = None
    fed: bool = False


class Child:
    """A command under its keeper, which is there before the command and answers for what is made for it.

    code: None while the command runs, else its exit code or -signal; gone: True once no descendant is left, and, with
    directories to answer for, end() was said; failed: errno and text where it could not be executed; killed: processes
    that had to be killed; left: those that survived even SIGKILL (in the kernel, on a dead file system); keeper_code:
    how the keeper ended where that went first and took the command with it, -n for signal n, else 0.
    """

    def __init__(self, keeping: Keeping) -> None:
        self.code: int | None = None
        self.gone = False
        self.failed: tuple[int, str] | None = None
        self.killed = 0
        self.left = 0
        self.pid = 0
        self.keeper_code = 0
        self._made = False
        self._unmade: tuple[int, str] | None = None
        self._buffer = b""
        self._outputs, self._keeper = keeping.outputs, keeping.process
        os.set_blocking(self.fileno(), False)

    def make(self, directory: str) -> None:
        """Make a directory of mode 0700 for which the keeper answers from then on; raises OSError."""
        self._tell(make=_spelt(directory))
        end = time.monotonic() + _MAKE_SECONDS
        while not (self.poll() or self._made or self._unmade) and (left := end - time.monotonic()) > 0:
            polling.readable([self.fileno()], left)
        if not self._made:
            number, text = self._unmade or (errno.ETIMEDOUT, f"its keeper has not made it within {_MAKE_SECONDS:g} s")
            raise OSError(number, text, directory)

    def answer_for(self, directory: str) -> None:
        """Remove this directory, too, if this process goes before it has said end()."""
        self._tell(remove=_spelt(directory))

    def leave_word(self, room: Path, file: Path, text: str) -> None:
        """Write this text into `room` and rename that to `file`, if this process goes before it has done so itself."""
        self._tell(word={"room": _spelt(str(room)), "file": _spelt(str(file)), "text": text})

    def name(self, text: str) -> None:
        """Call the keeper so where `ps` and `top` show a program's name, of which Linux keeps 15 bytes."""
        self._tell(name=text)

    def run(self, order: Order) -> None:
        """Begin the command."""
        self._tell(
            argv=[_spelt(word) for word in order.argv],
            env={_spelt(key): _spelt(value) for key, value in order.env.items()},
            cwd=_spelt(order.cwd or str(Path.cwd())),
            stdout=self._outputs[0],
            stderr=self._outputs[1],
            ladder=order.ladder,
            orphan_ladder=order.orphan_ladder,
            linger=order.linger,
            ignored=list(order.ignored),
            fed=order.fed,
        )

    def feed(self, text: str) -> None:
        """Give a command that is fed its standard input, up to 64 KiB, and close it."""
        self._tell(feed=_spelt(text))

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

        Without a command, what was made for it is removed.

        A keeper that somebody has stopped is continued: nobody else would end what it keeps.
        """
        self._tell(end=True)
        self._keeper.send_signal(signal.SIGCONT)  # unless it was waited for: its pid may be somebody else's by now

    def discard(self) -> None:
        """end(), and what was made for the command is removed."""
        self._tell(unmake=True)
        self.end()

    def _note(self, report: dict[str, int | str]) -> None:
        self._made = self._made or "made" in report
        if "unmade" in report:
            self._unmade = (int(report["unmade"]), str(report["text"]))
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
        code = self._keeper.wait()
        self.gone = True
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it has not read needs no reader
            self._keeper.stdin.close()
        if self.code is None and self.failed is None:
            self.code, self.keeper_code = -signal.SIGKILL, code

    def _tell(self, **message: object) -> None:
        if self.gone:
            return
        assert self._keeper.stdin is not None
        # A keeper that has gone has nothing left to end; poll() notices.
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(json.dumps(message).encode() + b"\n")
            self._keeper.stdin.flush()


def _spelt(text: str) -> str:
    """The bytes of an argument, one character each: they survive JSON whatever the locale."""
    return os.fsencode(text).decode("latin-1")


def until_gone(children: list[Child], seconds: float) -> list[Child]:
    """Wait until no descendant of the children is left, who were told to end; those that are not done in time."""
    end = time.monotonic() + seconds
    waiting = [child for child in children if not child.gone]
    while waiting and (left := end - time.monotonic()) > 0:
        polling.readable(waiting, left)
        for child in waiting:
            child.poll()
        waiting = [child for child in waiting if not child.gone]
    return waiting


def sweep(marker: str, own: frozenset[int]) -> int:
    """SIGKILL every process of this user whose environment holds the marker `NAME=value`; how many there were.

    For what has left our tree because a keeper was killed: no kernel knows whether such a process is left. One look at
    /proc may miss what is born meanwhile, so two in a row have to find nobody. own: pids that are spared.
    """
    killed: set[int] = set()
    end = time.monotonic() + _SWEEP_SECONDS
    looks_in_vain = 0
    while looks_in_vain < 2 and time.monotonic() < end:
        found = {pid for pid in _carriers(marker.encode()) if pid not in own and keeper.send(pid, signal.SIGKILL)}
        looks_in_vain = 0 if found else looks_in_vain + 1
        killed |= found
        time.sleep(_SWEEP_POLL_SECONDS if found else 0)  # they need a moment to die
    return len(killed)


def _carriers(marker: bytes) -> Iterator[int]:
    """Processes whose environment holds the marker; a zombie has none."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # Other people's environments are unreadable, and a process may end meanwhile.
            with contextlib.suppress(OSError):
                if marker in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    yield int(entry)
