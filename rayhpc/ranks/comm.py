"""A rank's connection to the others: what it offers, the one of a rank alone, and the exchange in which all agree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from rayhpc.errors import ExitCode, Fault, RayhpcError, merged, not_importable, shortened

T = TypeVar("T")
S = TypeVar("S")


class Unreachable(RayhpcError):
    """Some rank can no longer be reached: only an abort ends it."""


class Comm(Protocol):
    """What a stage may ask of the ranks' connection. Messages between two ranks arrive in order."""

    rank: int
    size: int
    # Ranks whose connection has ended: looked at once all their mail was received. Always empty over MPI.
    gone: frozenset[int]

    def send(self, to: int, message: object) -> None:
        """Hand a message over; never blocks."""

    def receive(self) -> tuple[int, Any] | None:
        """The next message and the rank that sent it, if one is there; never blocks."""

    def settle(self) -> None:
        """Once every rank has exchanged a message with rank 0: leave nothing behind even if killed."""

    def leave(self) -> None:
        """End in order; every rank must call it."""

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once, for a rank that can no longer be reached; the launcher ends with the code."""


class SoloComm:
    """One rank, no MPI."""

    rank = 0
    size = 1
    gone: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self._mail: list[Any] = []

    def send(self, to: int, message: object) -> None:
        """Write to oneself; any other rank is a mistake of the caller."""
        if to != 0:
            raise ValueError(f"there is no rank {to}")
        self._mail.append(message)

    def receive(self) -> tuple[int, Any] | None:
        """The next message, if one is there."""
        return (0, self._mail.pop(0)) if self._mail else None

    def settle(self) -> None:
        """Nothing to do."""

    def leave(self) -> None:
        """Nothing to do."""

    def abort(self, code: int) -> NoReturn:
        """End this process."""
        os._exit(code)


# One value-or-error exchange, the only collective that there is.


@dataclass(frozen=True)
class _Contribution:
    """A rank's contribution, or rank 0's answer to it: a value or the fault that took its place."""

    value: Any = None
    fault: Fault | None = None


def agree(comm: Comm, place: str, local: Callable[[], T], combine: Callable[[list[T]], list[S]], timeout: float) -> S:
    """Every rank contributes, rank 0 combines, every rank gets its share; a fault anywhere is raised everywhere.

    local: this rank's contribution; combine: on rank 0, from the contributions in rank order to the answers in rank
    order; place: how this rank is named; timeout: seconds that rank 0 waits for the last rank.
    """
    contribution = _attempt(local, place)
    if comm.rank != 0:
        comm.send(0, contribution)
        (answer,) = _collect(comm, {0}, timeout * 2).values()
    else:
        contributions = {0: contribution, **_collect(comm, set(range(1, comm.size)), timeout)}
        answers = _answers([contributions[rank] for rank in sorted(contributions)], combine, place)
        for rank in range(1, comm.size):
            comm.send(rank, answers[rank])
        answer = answers[0]
    if answer.fault is not None:
        raise RayhpcError(answer.fault)
    share: S = answer.value
    return share


def _attempt(work: Callable[[], Any], place: str) -> _Contribution:
    try:
        return _Contribution(value=work())
    except RayhpcError as error:
        return _Contribution(fault=error.fault.on(place, time.time()))
    except Exception as error:  # a bug on one rank must not strand the others
        return _Contribution(fault=internal(error).on(place, time.time()))


def _answers(found: list[_Contribution], combine: Callable[[list[Any]], list[Any]], place: str) -> list[_Contribution]:
    faults = [entry.fault for entry in found if entry.fault is not None]
    values = [entry.value for entry in found]
    combined = _Contribution(fault=merged(faults)) if faults else _attempt(lambda: combine(values), place)
    if combined.fault is not None:
        return [combined] * len(found)
    return [_Contribution(value=share) for share in combined.value]


def _collect(comm: Comm, ranks: set[int], timeout: float) -> dict[int, _Contribution]:
    """One contribution from each of the ranks; raises RayhpcError with those that are missing when the time is over."""
    contributions: dict[int, _Contribution] = {}
    end = time.monotonic() + timeout
    while missing := ranks - set(contributions):
        received = comm.receive()
        if received is not None:
            contributions[received[0]] = received[1]
        elif missing & comm.gone:
            names = shortened([str(rank) for rank in sorted(missing & comm.gone)])
            raise Unreachable(
                Fault(
                    f"rank {names} has ended before the cluster was agreed",
                    ExitCode.BRING_UP,
                    next_step="look at what it printed last",
                )
            )
        elif time.monotonic() > end:
            names = shortened([str(rank) for rank in sorted(missing)])
            raise Unreachable(
                Fault(
                    f"no message from rank {names} within {timeout:.0f} s",
                    ExitCode.BRING_UP,
                    next_step="look at the launcher's output for a process that ended or hangs at its start",
                )
            )
        else:
            time.sleep(0.001)
    return contributions


def internal(error: BaseException) -> Fault:
    """The fault that an unexpected exception is: a missing package, or a bug of ours with the lines that show it."""
    import traceback

    if isinstance(error, ImportError):
        return not_importable(error)
    lines = traceback.format_exception(error)
    return Fault(
        f"unexpected {type(error).__name__}: {error}",
        ExitCode.INTERNAL,
        evidence=tuple("".join(lines).rstrip().splitlines()[-10:]),
        next_step="this is a bug in rayhpc: please report it with the run directory",
    )
