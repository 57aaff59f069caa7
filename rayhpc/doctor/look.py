"""Make checks, and go on where one of them hangs or has a fault of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from rayhpc.doctor.catalog import Check
from rayhpc.doctor.here import Here
from rayhpc.errors import RayhpcError
from rayhpc.finding import Finding, fail, name, warn
from rayhpc.host import this_host

_THREADS = 4
# `import ray` has a minute.
SECONDS = 75.0


def look(checks: Sequence[Check], here: Here, seconds: float = SECONDS) -> list[Finding]:
    """What the checks find on this host, in their order; those that have not answered in time are findings, too.

    A file system that hangs takes the thread that asks it, and no more.
    """
    todo: queue.SimpleQueue[Check] = queue.SimpleQueue()
    for check in checks:
        todo.put(check)
    found: dict[Check, list[Finding]] = {}

    def work() -> None:
        while len(found) < len(checks):
            try:
                check = todo.get_nowait()
            except queue.Empty:
                return
            found[check] = _made(check, here)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(_THREADS)]
    _run(workers, work, time.monotonic() + seconds)
    silent = fail(f"this check has not ended within {seconds:g} s", next_step="a file system or a command may hang")
    return [
        replace(each, id=name(check), where=this_host.name())
        for check in checks
        for each in found.get(check, [silent])
    ]


def _run(workers: Sequence[threading.Thread], work: Callable[[], None], end: float) -> None:
    try:
        for worker in workers:
            worker.start()
    except RuntimeError:  # no more threads are allowed, which a check will report
        work()
    for worker in workers:
        if worker.ident is not None:
            worker.join(max(0.0, end - time.monotonic()))


def _made(check: Check, here: Here) -> list[Finding]:
    try:
        return list(check(here))
    except RayhpcError as error:
        return [Finding.of(error.fault)]
    except Exception as error:  # a bug in one check must not hide what the others find
        step = "this is a bug in rayhpc: please report it"
        return [warn(f"this check has a fault of its own: {type(error).__name__}: {error}", next_step=step)]
