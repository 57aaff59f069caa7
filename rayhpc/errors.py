"""What can go wrong, in the four parts that a user needs, and the exit code that says so."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NoReturn


class ExitCode(IntEnum):
    """The exit codes of rayhpc; any other code is the driver's, 128+n for signal n."""

    USAGE = 2
    INTERNAL = 70
    BRING_UP = 71
    NOT_READY = 72
    HEAD_LOST = 73
    NODE_LOST = 74
    REQUEUE = 75
    CONFIGURATION = 78
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127


MEANINGS: dict[ExitCode, str] = {
    ExitCode.USAGE: "the command line of rayhpc is wrong",
    ExitCode.INTERNAL: "a fault in rayhpc itself",
    ExitCode.BRING_UP: "a Ray node did not start, or ended before the cluster was up",
    ExitCode.NOT_READY: "the cluster was not complete when --timeout was over",
    ExitCode.HEAD_LOST: "the head node ended or stopped answering while the driver ran",
    ExitCode.NODE_LOST: "a worker node or a rank was lost under --on-node-loss=abort",
    ExitCode.REQUEUE: "the driver asks to be run again (it has written a checkpoint)",
    ExitCode.CONFIGURATION: "the allocation, the environment or an option cannot work",
    ExitCode.NOT_EXECUTABLE: "the driver is there but cannot be executed",
    ExitCode.NOT_FOUND: "the driver was not found",
}


@dataclass(frozen=True)
class Fault:
    """What happened, where, the evidence, and what to do next; `at` is Unix seconds."""

    what: str
    code: ExitCode
    where: str = ""
    evidence: tuple[str, ...] = ()
    next_step: str = ""
    at: float = 0.0

    def on(self, where: str, at: float) -> Fault:
        """The same fault with its place and time filled in where they were not known yet."""
        return replace(self, where=self.where or where, at=self.at or at)

    def text(self, ends: bool = True) -> str:
        """The report as the user reads it; ends: whether the command ends with it."""
        parts = [f"rayhpc: {self.what}" + (f"  [{self.where}]" if self.where else "")]
        parts += [f"    {line}" for line in self.evidence]
        parts += [f"  next: {self.next_step}"] if self.next_step else []
        parts += [f"  exit code {int(self.code)}: {MEANINGS[self.code]}"] if ends else []
        return "\n".join(parts)


class RayhpcError(Exception):
    """Carries one Fault to the place that prints it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.what)
        self.fault = fault

    def __reduce__(self) -> tuple[type[RayhpcError], tuple[Fault]]:
        return (RayhpcError, (self.fault,))


def configuration(what: str, *evidence: str, next_step: str) -> RayhpcError:
    """An error of what was found or configured, before anything was started."""
    return RayhpcError(Fault(what, ExitCode.CONFIGURATION, evidence=evidence, next_step=next_step))


def not_importable(error: ImportError) -> Fault:
    """The fault of a package that this Python lacks, or that is broken."""
    name = (error.name or "").partition(".")[0]
    package = "'ray[rllib]'" if name == "ray" else "--upgrade --force-reinstall rayhpc"
    return Fault(
        f"{name} cannot be imported" if name else "a package cannot be imported",
        ExitCode.CONFIGURATION,
        evidence=(f"{type(error).__name__}: {error}", f"Python: {sys.executable}"),
        next_step=f"in the environment of these ranks: pip install {package}",
    )


def merged(faults: list[Fault]) -> Fault:
    """The earliest of several faults as the title; the places of equal ones joined, the others as evidence."""
    if not faults:
        raise ValueError("no fault to merge")
    first = min(faults, key=lambda fault: fault.at)
    places: dict[str, dict[str, None]] = {}
    for fault in faults:
        places.setdefault(fault.what, {}).update({fault.where: None} if fault.where else {})
    where = shortened(list(places.pop(first.what)))
    others = [f"also: {what} [{shortened(list(found))}]" for what, found in places.items()]
    return replace(first, where=where, evidence=(*first.evidence, *others[:5]))


def shortened(names: list[str], limit: int = 6) -> str:
    """The first names in full and the number of the rest: a thousand hosts still fit on a screen."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def signal_name(number: int) -> str:
    """'SIGTERM'; 'signal 40' for a real-time signal, which has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def assert_never(value: NoReturn) -> NoReturn:
    """For the last case of a match that names all cases: mypy proves that it is not reached (typing's needs 3.11)."""
    raise AssertionError(f"unexpected {value!r}")


def counted(number: int, what: str) -> str:
    """'1 host', '2 hosts'."""
    return f"{number} {what}" + ("" if number == 1 else "s")
