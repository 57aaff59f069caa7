"""Runs one command and answers for all of its descendants: when it ends, or its owner does, none is left.

A program of its own, standard library only, so that it starts in some 20 ms and outlives whoever started it. It reads
JSON objects from standard input, one a line: the order, instructions; end of file means that the owner is gone. It
reports on standard output, also JSON lines.

order:        argv, env, cwd (bytes, spelt as Latin-1), stdout and stderr (file descriptors), ladder and orphan_ladder
              ([[signal, seconds], …], climbed to end the command, SIGKILL comes last), linger (seconds between SIGTERM
              and SIGKILL for what the command leaves behind), ignored (signals that the command shall ignore),
              fed (the command's standard input is a pipe).
instruction:  before the order or after it: {"name": text}, as which `ps -o comm` shows the keeper; {"make": path}, a
              directory of mode 0700; {"remove": path}; {"end": true}, a second time: without waiting; {"unmake": true};
              {"word": {"room": path, "file": path, "text": …}}: what to write if the owner is gone before the room is.
              After it: {"signal": n}; {"feed": text}, once, for a command that is fed.
report:       {"made": path} or {"unmade": errno, "text": …}; {"pid": n} or {"failed": errno, "text": …};
              {"ended": code or -signal}; {"gone": processes killed, "left": processes that survived even that}.

It answers for what it has made, and shall remove, until the owner says "end" or is gone, even if the command has ended
long before. It removes it if the owner is gone, has said "unmake", or gave no order.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import time

TYPE_CHECKING = False  # typing, and shutil, would be a quarter of the keeper's start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
# A process that is in the kernel ends when it leaves it. An owner does not wait longer; without one nobody waits.
_CLEAR_SECONDS = 5.0
_ORPHAN_CLEAR_SECONDS = 60.0
# The driver writes into the head's directory until its own keeper has ended it.
_REMOVE_SECONDS = 20.0
_POLL_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process; raises OSError where the kernel refuses."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def write_no_core_files() -> None:
    """Let this process and its descendants write no core files: the memory of each of them holds the run's token.

    The soft limit alone: whoever needs a core file of his own code raises it again there.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _prctl(request: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(request, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({request}, {value!r})")


def _table() -> dict[int, tuple[int, bool]]:
    """The parent of each process, and whether it lives."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # A process may end between the listing and the reading.
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stat:  # noqa: PTH123
                fields = stat.read().rpartition(b")")[2].split()
                table[int(entry)] = int(fields[1]), _lives(fields)
    return table


def _lives(fields: list[bytes]) -> bool:
    """Whether a process lives, by /proc/PID/stat from the state on.

    A process whose main thread has ended is shown as a zombie. While another thread of it lives, it has children still:
    a process with many threads looks like that while it dies of SIGKILL.
    """
    state, threads = fields[0], int(fields[17])
    return state not in (b"Z", b"X") or threads > 1


def descendants(root: int, spared: frozenset[int] = frozenset()) -> list[int]:
    """Living descendants of a process, parents first, without the pids in `spared` and what is below them.

    One look, which takes milliseconds: who is born, or loses its parent, meanwhile may be missing. That a subreaper has
    no descendant is what childless() knows.
    """
    table = _table()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        below = [pid for pid in children.get(queue.pop(0), []) if pid not in spared]
        found += below
        queue += below
    return [pid for pid in found if table[pid][1]]


def childless() -> bool:
    """Whether this process has no child, not even one that waits to be reaped; of a subreaper: no descendant.

    The kernel's answer, which no look at /proc can give: an orphan gets its new parent in the moment in which it loses
    the one before.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def send(pid: int, signum: int) -> bool:
    """Signal a process; False if it has already gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def reap() -> Iterator[tuple[int, int]]:
    """(pid, exit code or -signal) of each child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


class Charge:
    """The directories for which the keeper answers."""

    def __init__(self) -> None:
        self.unwanted = False
        self._directories: list[bytes] = []
        self._word: dict[str, str] = {}

    @property
    def taken(self) -> bool:
        """There is a directory to answer for."""
        return bool(self._directories)

    def take(self, instruction: dict[str, Any]) -> None:
        """Obey what may be told at any time; all else is no business of this."""
        if "name" in instruction:
            _prctl(_PR_SET_NAME, instruction["name"].encode())
        if "make" in instruction:
            self._make(instruction["make"])
        if "remove" in instruction:
            self._directories.append(instruction["remove"].encode("latin-1"))
        self._word = instruction.get("word", self._word)
        self.unwanted = self.unwanted or "unmake" in instruction

    def _make(self, spelt: str) -> None:
        """Make a directory, which must not be there, and report."""
        path = spelt.encode("latin-1")
        try:
            os.mkdir(path, 0o700)  # noqa: PTH102 - bytes
        except OSError as error:
            _report(unmade=error.errno, text=error.strerror)
            return
        self._directories.append(path)
        _report(made=spelt)

    def speak(self) -> None:
        """Write the last word of an owner that is gone, unless it has: then the room has been renamed."""
        if not self._word:
            return
        room, file = (self._word[name].encode("latin-1") for name in ("room", "file"))
        # A file system that is away, or a directory that was removed, has no use for it.
        with contextlib.suppress(OSError), open(room, "r+b") as stream:  # noqa: PTH123 - bytes
            stream.write(self._word["text"].encode())
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
            os.rename(room, file)  # noqa: PTH104 - bytes

    def remove(self) -> None:
        """Remove them all, again and again where somebody still writes into one of them."""
        if self._directories:
            import shutil

            end = time.monotonic() + _REMOVE_SECONDS
            while (left := self._left()) and time.monotonic() < end:
                for path in left:
                    if os.path.islink(path):  # noqa: PTH114 - bytes
                        with contextlib.suppress(OSError):  # as below
                            os.unlink(path)  # noqa: PTH108 - bytes
                    else:
                        shutil.rmtree(path, ignore_errors=True)
                if self._left():
                    time.sleep(_POLL_SECONDS)

    def _left(self) -> list[bytes]:
        return [path for path in self._directories if os.path.lexists(path)]


class Keeper:
    """One command and all that descends from it."""

    def __init__(self, order: dict[str, Any], rest: bytes, wakeup: int, charge: Charge) -> None:
        self._order = order
        self._buffer = rest
        self._charge = charge
        self._wakeup = wakeup
        self._pid = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = False
        self._ends_wanted = 0
        self._owner_gone = False

    def run(self) -> None:
        """Start the command, obey until it ends or shall end, and leave no descendant."""
        started = self._start()
        self._take(b"")  # what came with the order
        killed, left = self._keep() if started else (0, 0)
        self._answer_for_directories()
        if left:  # those that have survived may have left the kernel by now
            more, left = self._clear()
            killed += more
        if self._owner_gone:
            self._charge.speak()
        if self._owner_gone or self._charge.unwanted:
            self._charge.remove()
        _report(gone=killed, left=left)

    def _keep(self) -> tuple[int, int]:
        """The numbers of killed and of survivors when the command has ended, and all that descends from it."""
        while not (self._ended or self._ends_wanted or self._owner_gone):
            self._wait(None)
        self._climb_ladder()
        self._let_linger()
        return self._clear()

    def _start(self) -> bool:
        """Whether the command could be executed, which is reported."""
        try:
            self._pid = self._execute()
        except OSError as error:
            _report(failed=error.errno, text=error.strerror)
            return False
        _report(pid=self._pid)
        return True

    def _execute(self) -> int:
        order = self._order
        # The object is kept: when it goes, it takes the exit code of a child that has already ended with it.
        self._child = subprocess.Popen(
            [word.encode("latin-1") for word in order["argv"]],
            env={key.encode("latin-1"): value.encode("latin-1") for key, value in order["env"].items()},
            cwd=order["cwd"].encode("latin-1"),
            stdin=subprocess.PIPE if order["fed"] else subprocess.DEVNULL,
            stdout=order["stdout"],
            stderr=order["stderr"],
            start_new_session=True,
            preexec_fn=self._become,  # noqa: PLW1509 - single-threaded
        )
        for descriptor in {order["stdout"], order["stderr"]}:
            os.close(descriptor)
        return self._child.pid

    def _become(self) -> None:
        """What the command is before it is executed: it dies with the keeper, and ignores what the order says.

        No signal is blocked in it: Ray blocks SIGINT in all of its processes, of which a keeper may come.
        """
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for signum in self._order["ignored"]:
            signal.signal(signum, signal.SIG_IGN)

    def _climb_ladder(self) -> None:
        """Signal the command and give it its seconds, step by step, until it has ended."""
        for signum, seconds in self._order["orphan_ladder" if self._owner_gone else "ladder"]:
            if self._ended or self._hurried or not send(self._pid, signum):
                return
            self._wait(time.monotonic() + seconds)

    def _let_linger(self) -> None:
        """SIGTERM what the command left behind, and give it the order's seconds."""
        end = time.monotonic() + self._order["linger"]
        if not self._order["linger"] or self._alone():  # a look at all of /proc takes longer
            return
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGTERM)
        while time.monotonic() < end and not self._hurried and not self._alone():
            self._sleep(min(end, time.monotonic() + _POLL_SECONDS))

    def _clear(self) -> tuple[int, int]:
        """SIGKILL what is left until the kernel says that nobody is; the numbers of killed and of survivors."""
        killed: set[int] = set()
        began = time.monotonic()
        while not (alone := self._alone()) and time.monotonic() < began + self._clear_seconds:
            killed |= {pid for pid in descendants(os.getpid()) if send(pid, signal.SIGKILL)}
            self._sleep(time.monotonic() + _POLL_SECONDS)
        return len(killed), 0 if alone else max(1, len(descendants(os.getpid())))

    @property
    def _clear_seconds(self) -> float:
        return _ORPHAN_CLEAR_SECONDS if self._owner_gone else _CLEAR_SECONDS

    def _answer_for_directories(self) -> None:
        """Until the owner says that it will see to them, or is gone."""
        while self._charge.taken and not (self._ends_wanted or self._owner_gone):
            self._sleep(None)
            self._reap()

    def _alone(self) -> bool:
        """Whether no descendant is left."""
        self._reap()
        return childless()

    def _reap(self) -> None:
        for pid, code in reap():
            if pid == self._pid:
                self._ended = True
                _report(ended=code)

    @property
    def _hurried(self) -> bool:
        return self._ends_wanted > 1

    def _wait(self, end: float | None) -> None:
        """Return when the command has ended, when `end` is over, or, without an end, after any wake-up."""
        while not (self._ended or self._hurried):
            self._sleep(end)
            self._reap()
            if end is None or time.monotonic() >= end:
                return

    def _obey(self, line: bytes) -> None:
        instruction = json.loads(line)
        self._charge.take(instruction)
        if "signal" in instruction and self._child and not self._ended:
            send(self._pid, instruction["signal"])
        if "feed" in instruction and self._child:
            self._feed(instruction["feed"].encode("latin-1"))
        if "end" in instruction:
            self._ends_wanted += 1

    def _feed(self, text: bytes) -> None:
        assert self._child and self._child.stdin
        # A command that has ended reads nothing: its end is reported. A pipe holds 64 KiB for one that is late.
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(text)
            self._child.stdin.close()

    def _sleep(self, end: float | None) -> None:
        """Wait for a child's end, for instructions, which are obeyed, or for the time."""
        sources = [self._wakeup] if self._owner_gone else [self._wakeup, 0]
        left = None if end is None else max(0.0, end - time.monotonic())
        ready, _, _ = select.select(sources, [], [], left)
        if self._wakeup in ready:
            os.read(self._wakeup, 4096)
        if 0 in ready:
            chunk = os.read(0, 65536)
            self._owner_gone = not chunk
            self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            self._obey(line)


def _catch_signals() -> int:
    """Let no polite signal end the keeper; a file descriptor that becomes readable when a child ends.

    Handlers, not SIG_IGN: an ignored signal would stay ignored in the command.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for signum in (*_SIGNALS, signal.SIGCHLD):
        signal.signal(signum, lambda *_: None)
    return reading


def main() -> None:
    """Keep the command of the order; without an order, only answer for directories."""
    wakeup = _catch_signals()
    become_subreaper()
    charge = Charge()
    rest = b""
    while True:
        line, rest = _next_line(rest)
        instruction = json.loads(line)
        if "argv" in instruction:
            Keeper(instruction, rest, wakeup, charge).run()
            return
        if "gone" in instruction:
            charge.speak()
        if "gone" in instruction or "end" in instruction:
            break
        charge.take(instruction)
    charge.remove()
    _report(gone=0, left=0)


def _next_line(rest: bytes) -> tuple[bytes, bytes]:
    """The next line of standard input and what was read beyond it; "gone" once the owner is."""
    while b"\n" not in rest:
        chunk = os.read(0, 65536)
        if not chunk:
            return b'{"gone": true}', b""
        rest += chunk
    line, _, rest = rest.partition(b"\n")
    return line, rest


def _report(**message: object) -> None:
    # An owner that is gone needs no report; that it is gone is seen at standard input.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
