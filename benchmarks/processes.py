"""Processes as /proc has them: who is there, what they have used. What has ended meanwhile counts as nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "RAYHPC_BENCH"
_TICK = os.sysconf("SC_CLK_TCK")
_OURS = (b"rayhpc.start", b"rayhpc/processes/keeper.py", b"rayhpc/inside_ray/deferred_agent.py")
_DAEMONS = "GCS, raylets, agents"
# A rank has the driver's words among its own: the first that is found says what a Python runs.
_PYTHONS = {
    b"rayhpc.start": "ranks",
    b"rayhpc/processes/keeper.py": "keepers",
    b"rayhpc/inside_ray/ray_command.py": "ray start",
    b"rayhpc/inside_ray/deferred_agent.py": _DAEMONS,
    b"/default_worker.py": "workers",
    b"/driver.py": "driver",
}
_PROGRAMS = {b"gcs_server": _DAEMONS, b"raylet": _DAEMONS, b"sleep": _DAEMONS}
_OTHERS = "launcher"
KINDS = tuple(dict.fromkeys([*_PYTHONS.values(), _OTHERS]))


@dataclass(frozen=True)
class Usage:
    """CPU seconds of processes, and their memory in bytes: resident, and with shared pages divided by their users."""

    count: int
    cpu: float
    rss: int
    pss: int


def parse_cpu(stat: str, children: bool = False) -> float:
    """CPU seconds of a /proc/PID/stat: user and system, with those of children that were waited for if asked."""
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11 : 15 if children else 13]) / _TICK


def parse_memory(rollup: str) -> tuple[int, int]:
    """Rss and Pss in bytes of a /proc/PID/smaps_rollup."""
    rows = {line.split(":")[0]: line.split(":")[1].split() for line in rollup.splitlines()[1:] if ":" in line}
    return int(rows["Rss"][0]) * 1024, int(rows["Pss"][0]) * 1024


def pids(proc: Path) -> Iterator[int]:
    """Every process that a /proc shows."""
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def marked(mark: str, proc: Path = Path("/proc")) -> list[int]:
    """Processes that have MARK=mark in their environment, and their descendants: a keeper's environment is empty."""
    needle = f"{MARK}={mark}".encode()
    known = list(pids(proc))
    found = {pid for pid in known if needle in _read(proc / str(pid) / "environ").split(b"\0")}
    return sorted(family(found, {pid: parse_parent(_read(proc / str(pid) / "stat").decode()) for pid in known}))


def family(roots: set[int], parents: dict[int, int]) -> set[int]:
    """These processes and all below them."""
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def parse_parent(stat: str) -> int:
    """The parent in a /proc/PID/stat; 0 for an empty one, and for a zombie, which nobody need wait for."""
    state, parent = stat.rpartition(")")[2].split()[:2] if stat else ("Z", "0")
    return 0 if state == "Z" else int(parent)


def ours(proc: Path, among: Iterable[int]) -> list[int]:
    """The ranks' Pythons, keepers and agents that wait, among these processes: what rayhpc costs beside Ray's own."""
    return [pid for pid in among if is_ours(_read(proc / str(pid) / "cmdline").split(b"\0"))]


def is_ours(argv: list[bytes]) -> bool:
    """Whether a Python runs rayhpc; srun and mpirun have the same words, and are not ours."""
    return b"python" in argv[0].rpartition(b"/")[2] and any(word.endswith(_OURS) for word in argv[1:])


def kind(argv: list[bytes]) -> str:
    """Which of KINDS a process of a run is."""
    program = argv[0].rpartition(b"/")[2]
    if argv[0].startswith(b"ray::"):  # as Ray's workers call themselves
        return _PYTHONS[b"/default_worker.py"]
    if b"python" in program:
        known = (name for end, name in _PYTHONS.items() if any(word.endswith(end) for word in argv[1:]))
        return next(known, _OTHERS)
    return _PROGRAMS.get(program, _OTHERS)


def cpu_by_kind(among: Iterable[tuple[Path, int]]) -> dict[str, float]:
    """CPU seconds so far of each of KINDS, with those of ended children."""
    used = dict.fromkeys(KINDS, 0.0)
    for proc, pid in among:
        used[kind(_read(proc / str(pid) / "cmdline").split(b"\0"))] += cpu(proc, [pid], children=True)
    return used


def cpu(proc: Path, among: Iterable[int], children: bool = False) -> float:
    """CPU seconds of these processes, with those of ended children if asked."""
    stats = (_read(proc / str(pid) / "stat").decode(errors="replace") for pid in among)
    return sum(parse_cpu(stat, children) for stat in stats if stat)


def usage(proc: Path, among: Iterable[int]) -> Usage:
    """What these processes have used so far."""
    known = list(among)
    rollups = [_read(proc / str(pid) / "smaps_rollup").decode() for pid in known]
    memory = [parse_memory(rollup) for rollup in rollups if rollup]
    return Usage(len(memory), cpu(proc, known), sum(rss for rss, _ in memory), sum(pss for _, pss in memory))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # ended meanwhile, or another user's
        return b""
