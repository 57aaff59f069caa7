"""Where contenders run: hosts under a real Slurm on this machine (root), or this host alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks import processes
from tests.slurm.slurm_cluster import SlurmCluster, virtual_cluster

REPOSITORY = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
_KILL_SECONDS = 10.0


class Place(Protocol):
    """nodes: how many Ray nodes a contender is to start here; name: "hosts" or "one host"."""

    name: str
    nodes: int

    def start(self, argv: Sequence[str], directory: Path) -> None:
        """Launch a contender, whose output goes to `directory`/output; the time of it to `directory`/launched."""

    def living(self) -> list[tuple[Path, int]]:
        """Its processes: the /proc that shows each, and its id there. What the place itself needs is left out."""

    def clear(self) -> None:
        """End what is left, and make the place as it was before; raises if that fails."""


def environment() -> dict[str, str]:
    """A user's environment with this virtual environment active, and nothing of other Ray clusters.

    Without PYTHONDONTWRITEBYTECODE, under which what was not compiled by pip would be compiled at each start.

    A token in ~/.ray turns authentication on for a head whose mode is not said, and not for who joins it; rayhpc drops
    the mode and uses a token all the same.
    """
    foreign = ("RAY_", "RAYHPC_", "SLURM", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }


class OneHost:
    """Several Ray nodes on this host, side by side; needs no root."""

    name = "one host"

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._mark = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, argv: Sequence[str], directory: Path) -> None:
        """Start the command itself; Ray's agents keep the mark of its environment only with SPT_NOENV."""
        self._mark = uuid.uuid4().hex
        env = {**environment(), processes.MARK: self._mark, "SPT_NOENV": "1"}
        with (directory / "output").open("wb") as output:
            (directory / "launched").write_text(repr(time.time()))
            self._process = subprocess.Popen(
                argv, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def living(self) -> list[tuple[Path, int]]:
        """The processes with this start's mark."""
        if self._process is not None:
            self._process.poll()
        return [(Path("/proc"), pid) for pid in processes.marked(self._mark)] if self._mark else []

    def clear(self) -> None:
        """End the launcher politely, so that it tidies up; then kill each process that is left, by its id."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_SECONDS)
        end = time.monotonic() + _KILL_SECONDS
        while left := self.living():
            for _, pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                raise RuntimeError(f"not killed within {_KILL_SECONDS:g} s: {left}")
            time.sleep(0.05)


class Hosts:
    """Some of the virtual hosts of a cluster: each contender is a batch job of its own, one Ray node on each host."""

    name = "hosts"

    def __init__(self, cluster: SlurmCluster, nodes: int) -> None:
        self.nodes = nodes
        self._cluster = cluster

    def start(self, argv: Sequence[str], directory: Path) -> None:
        """Submit it, and leave the time that the scheduler takes out of the account: launch.sh notes the launch."""
        flags = [f"--nodes={self.nodes}", "--exclusive", "--ntasks-per-node=1", f"--output={directory}/output"]
        words = [*flags, str(HERE / "launch.sh"), str(directory), *argv]
        self._cluster.sh("ctl", "sbatch", "--parsable", *words, cwd=directory, env=environment())

    def living(self) -> list[tuple[Path, int]]:
        """All processes on the nodes; Slurm's own for the job count as the job's."""
        found = []
        for node in self._cluster.nodes:
            proc = self._cluster.root(node) / "proc"
            found += [(proc, process.pid) for process in self._cluster.processes(node)]
        return found

    def clear(self) -> None:
        """End the job and power-cycle each host that it left something on."""
        self._cluster.make_whole()


@contextlib.contextmanager
def hosts(sizes: Sequence[int], directory: Path) -> Iterator[dict[int, Hosts]]:
    """A cluster with as many hosts as the largest size, seen as one place for each size."""
    environments = {Path(sys.executable).parents[1], Path(sys.executable).resolve().parents[1]}
    shared = [REPOSITORY, directory, *environments]
    settings: Mapping[str, str] = {"VH_CPUS": str(os.cpu_count() or 1)}
    with virtual_cluster(max(sizes), Path(f"/var/lib/bench-{os.getpid()}"), shared, settings) as cluster:
        yield {size: Hosts(cluster, size) for size in sizes}
