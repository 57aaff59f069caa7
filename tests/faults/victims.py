"""The processes of one run, each found by the run's own mark and not by a name that others may have as well.

The keeper of a rank's node has the name of the node's private directory, that of the driver the run's id in its last
argument; what they started has them as its parent. Every other process of a Ray node carries RAYHPC_NODE=run/rank in
its environment. Numbers are the machine's own, also of processes on virtual hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.launch import keeper_name, until

# USR1 shows that rank 1's node still works, INT and TERM are the end; with --child an actor on it has a setsid child.
DRIVER = """
import os, signal, subprocess, sys, time
import ray

def note(signum, frame):
    print("driver got", signum, flush=True)
    if signum != signal.SIGUSR1:
        print("last words", flush=True)
        sys.exit(9)
    asked.append(signum)

class Victim:
    def spawn(self):
        return subprocess.Popen(["setsid", "sleep", "600"]).pid

asked = []
on_rank_1 = ray.remote(num_cpus=0, label_selector={"rayhpc-rank": "1"})
ray.init(log_to_driver=False)
if "--child" in sys.argv:
    victim = on_rank_1(Victim).remote()
    ray.get(victim.spawn.remote())
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(signum, note)
print("driver up", flush=True)
while True:
    time.sleep(0.05)
    if asked:
        asked.clear()
        print("a task ran in", ray.get(on_rank_1(lambda: os.getpid()).remote(), timeout=30), flush=True)
"""

_APPEAR_SECONDS = 10.0


@dataclass(frozen=True)
class Process:
    """One living process: its name and its argv as it shows them now, and its environment as /proc has it."""

    pid: int
    parent: int
    name: str
    argv: tuple[str, ...]
    environ: frozenset[str]

    @property
    def program(self) -> str:
        return Path(self.argv[0]).name

    def says(self, word: str) -> bool:
        """Whether a word is part of its command line."""
        return any(word in argument for argument in self.argv)


def processes() -> Iterator[Process]:
    """All processes whose environment may be read."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _read(entry)):
            yield found


def _read(entry: Path) -> Process | None:
    """One /proc/PID; None if it ended meanwhile, is a zombie, or is somebody else's."""
    try:
        argv = (entry / "cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
        environ = (entry / "environ").read_bytes().decode(errors="replace")
        parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        name = (entry / "comm").read_text().rstrip("\n")
    except OSError:
        return None
    if not argv:
        return None
    return Process(int(entry.name), parent, name, tuple(argv.split("\0")), frozenset(environ.split("\0")))


class Victims:
    """Finds the processes of one run; each method waits a little for its process and fails where there is none."""

    def __init__(self, run: str) -> None:
        self._run = run

    def keeper(self, of: int | str) -> int:
        """The keeper of a rank's Ray node, or of the `driver`."""
        name, label = keeper_name(self._run, of), f"{self._run}/{of}"

        def which(process: Process) -> bool:
            return process.says("keeper.py") and (process.name == name or process.argv[-1] == label)

        return self._one(f"keeper {label}", which)

    def driver(self) -> int:
        """The user's command."""
        return self._child(self.keeper("driver"), "driver")

    def ray_start(self, rank: int) -> int:
        """The `ray start --block` of a rank."""
        return self._child(self.keeper(rank), f"ray start of rank {rank}")

    def daemon(self, rank: int, name: str) -> int:
        """The `gcs_server` or `raylet` of a rank."""
        return self._marked(rank, name, lambda process: process.program == name)

    def running(self, rank: int, script: str) -> int:
        """The Python of a rank's node that runs a script."""
        return self._marked(rank, script, lambda process: any(word.endswith(script) for word in process.argv))

    def titled(self, rank: int, title: str) -> int:
        """A Ray process of a rank with a title, such as an actor's ray::Class."""
        return self._marked(rank, title, lambda process: process.argv[0].startswith(title))

    def child(self, rank: int, title: str) -> int:
        """The one child of a Ray process with a title."""
        parent = self.titled(rank, title)
        return self._marked(rank, f"child of {title}", lambda process: process.parent == parent)

    def rank(self, rank: int) -> int:
        """The Python of a rank: whoever started the keeper of its node."""
        return parent_of(self.keeper(rank))

    def _child(self, parent: int, what: str) -> int:
        return self._one(what, lambda process: process.parent == parent)

    def _marked(self, rank: int, what: str, which: Callable[[Process], bool]) -> int:
        mark = f"RAYHPC_NODE={self._run}/{rank}"
        return self._one(f"{what} of {mark}", lambda process: mark in process.environ and which(process))

    def _one(self, what: str, which: Callable[[Process], bool]) -> int:
        found: list[int] = []

        def look() -> bool:
            found[:] = [process.pid for process in processes() if which(process)]
            return len(found) == 1

        assert until(look, _APPEAR_SECONDS), f"{what}: wanted one process, found {found}"
        return found[0]


def parent_of(pid: int) -> int:
    """The parent of a living process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
