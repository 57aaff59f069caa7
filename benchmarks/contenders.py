"""The contenders' command lines: the same Ray, the same options, the same driver."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.places import HERE, REPOSITORY, Place, environment
from rayhpc.host import this_host

CPUS = 1
OBJECT_STORE = 200 * 2**20
OPTIONS = f"--num-cpus={CPUS} --object-store-memory={OBJECT_STORE}"


@dataclass(frozen=True)
class Contender:
    """A way to run a driver on a cluster.

    argv: its command in a place, with the directory of the measurement and the driver's command; slow: it is repeated
    less; why_not: why it cannot run in a place, empty where it can.
    """

    name: str
    argv: Callable[[Place, Path, list[str]], list[str]]
    slow: bool = False
    why_not: Callable[[Place], str] = lambda _: ""


def driver(place: Place, directory: Path, seconds: float = 0.0) -> list[str]:
    """The driver's command."""
    return [sys.executable, str(HERE / "driver.py"), str(directory), str(place.nodes), str(seconds)]


def _rayhpc(place: Place, directory: Path, command: list[str]) -> list[str]:
    options = [
        "--num-cpus",
        str(CPUS),
        "--object-store-memory",
        str(OBJECT_STORE),
        "--run-dir",
        str(directory / "runs"),
    ]
    return [*_ranks(place, place.nodes), sys.executable, "-m", "rayhpc.start", *options, "--", *command]


def _ranks(place: Place, count: int) -> list[str]:
    if place.name == "hosts":
        return ["srun", "--mpi=pmi2", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--cpu-bind=none"]
    return [str(Path(sys.executable).with_name("mpirun")), "-np", str(count)]


def _symmetric_run(place: Place, _: Path, command: list[str]) -> list[str]:
    if place.name == "hosts":
        return [str(HERE / "symmetric_run_slurm.sh"), OPTIONS, *command]
    return [str(HERE / "symmetric_run_local.sh"), str(free_port()), OPTIONS, *command]


def _one_node(place: Place) -> str:
    if place.name == "hosts":
        return ""
    if place.nodes > 1:
        return "it starts one node on a host, and on several ranks of a host several heads"
    return "" if shutil.which("unshare") else "its `ray stop` would end everybody's Ray here, and unshare is missing"


def _template(_: Place, __: Path, command: list[str]) -> list[str]:
    return [str(HERE / "slurm_template.sh"), OPTIONS, *command]


def _by_hand(place: Place, directory: Path, command: list[str]) -> list[str]:
    if place.name == "hosts":
        return [str(HERE / "by_hand_slurm.sh"), str(directory), OPTIONS, *command]
    address = this_host.interfaces()[0].address
    words = [str(directory), str(place.nodes), address, str(free_port()), OPTIONS]
    return [str(HERE / "by_hand_local.sh"), *words, *command]


def _floor(place: Place, directory: Path, _: list[str]) -> list[str]:
    count = min(2, place.nodes)
    return [*_ranks(place, count), sys.executable, "-m", "benchmarks.floor", str(directory), str(count)]


def free_port() -> int:
    """A port that nobody listens on now."""
    with closing(socket.socket()) as trial:
        trial.bind(("", 0))
        return int(trial.getsockname()[1])


def _with_dashboard(place: Place, directory: Path, command: list[str]) -> list[str]:
    words = _rayhpc(place, directory, command)
    words.insert(words.index("rayhpc.start") + 1, "--dashboard")
    return words


# The other environment that people have: pip install 'ray[default]', with the packages of Ray's dashboard.
DEFAULT = " with ray[default]"
_PYTHON = REPOSITORY / ".venv-dashboard/bin/python"


def with_default(contender: Contender) -> Contender:
    """The same contender in the environment with ray[default]."""

    def argv(place: Place, directory: Path, command: list[str]) -> list[str]:
        here, there = Path(sys.executable).parent, _PYTHON.parent
        words = [
            str(there / Path(word).name) if Path(word).parent == here else word
            for word in contender.argv(place, directory, command)
        ]
        return ["env", f"PATH={there}:{environment()['PATH']}", *words]

    def why_not(place: Place) -> str:
        return contender.why_not(place) if _PYTHON.exists() else f"{_PYTHON} is missing (make setup)"

    return Contender(contender.name + DEFAULT, argv, contender.slow, why_not)


RAYHPC = Contender("rayhpc", _rayhpc)
SYMMETRIC_RUN = Contender("symmetric-run", _symmetric_run, slow=True, why_not=_one_node)
BY_HAND = Contender("by hand", _by_hand)
FLOOR = Contender("serial floor", _floor)
ALL = (
    RAYHPC,
    with_default(RAYHPC),
    with_default(Contender("rayhpc --dashboard", _with_dashboard)),
    SYMMETRIC_RUN,
    with_default(SYMMETRIC_RUN),
    Contender("template", _template, slow=True, why_not=lambda place: "" if place.name == "hosts" else "needs Slurm"),
    BY_HAND,
    with_default(BY_HAND),
    FLOOR,
)


def reference(name: str) -> str:
    """With which contender one is compared: rayhpc in the same environment; rayhpc itself with the plain one."""
    return RAYHPC.name + DEFAULT if name.endswith(DEFAULT) and not name.startswith(RAYHPC.name) else RAYHPC.name
