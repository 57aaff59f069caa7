"""What Ray writes when the kernel refuses it a thread, a process or memory, and what the user can do then. Pure."""

from __future__ import annotations

from collections.abc import Iterable

_PROCESSES = ("pthread_create failed", "Resource temporarily unavailable", "can't start new thread")
_MEMORY = ("Cannot allocate memory", "std::bad_alloc", "failed to map segment from shared object")
_SHOWN = 160


def shortage(lines: Iterable[str]) -> str:
    """The first line that says what Ray lacks, from the words that say it; empty where none does."""
    for line in lines:
        for words in (*_PROCESSES, *_MEMORY):
            if words in line:
                return line[line.index(words) :].strip()[:_SHOWN]
    return ""


def lacking(line: str) -> str:
    """What Ray lacks, by such a line."""
    return "processes or threads" if any(words in line for words in _PROCESSES) else "memory or address space"


def remedy(line: str) -> str:
    """What the user can do about such a line."""
    if lacking(line).startswith("processes"):
        return "compare ulimit -u and the cgroup's pids.max with what runs; raise them, or start fewer nodes or workers"
    return "look at ulimit -v and the job's memory; ask for more, or name a smaller --object-store-memory"
