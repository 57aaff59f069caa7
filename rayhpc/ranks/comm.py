"""A rank's connection to the others: what it offers, the one of a rank alone, and the exchange in which all agree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar, cast

from rayhpc.errors import ExitCode, Fault, RayhpcError, merged, not_importable, shortened
from rayhpc.messages import Contribution, Mail

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

    def send(self, to: int, message: Mail) -> None:
        """Hand a message over; never blocks."""

    def receive(self) -> tuple[int, Mail] | None:
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
        self._mail: list[Mail] = []

    def send(self, to: int, message: Mail) -> None:
        """Write to oneself; any other rank is a mistake of the caller."""
        if to != 0:
            raise ValueError(f"there is no rank {to}")
        self._mail.append(message)

    def receive(self) -> tuple[int, Mail] | None:
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


def agree(comm: Comm, place: str, local: Callable[[], T], combine: Callable[[list[T]], list[S]], timeout: float) -> S:
    """Every rank contributes, rank 0 combines, every rank gets its share; a fault anywhere is raised everywhere.

    local: this rank's contribution; combine: on rank 0, from the contributions in rank order to the answers in rank
    order; place: how this rank is named; timeout: seconds that rank 0 waits for the last rank.
    """
    if comm.rank != 0:
        return cast(S, _contribute(comm, place, local, timeout))
    mine = _attempt(local, place)
    found = {0: mine, **_collect(comm, set(range(1, comm.size)), timeout)}
    answers = _answers([found[rank] for rank in sorted(found)], combine, place)
    for rank in range(1, comm.size):
        comm.send(rank, answers[rank])
    return cast(S, _share(answers[0]))


def contribute(comm: Comm, place: str, local: Callable[[], object], kind: type[S], timeout: float) -> S:
    """agree(), for every rank but 0, which combines; kind: of the share; raises TypeError for another."""
    share = _contribute(comm, place, local, timeout)
    if not isinstance(share, kind):
        raise TypeError(f"rank 0 has answered with {type(share).__name__} in the place of {kind.__name__}")
    return share


def _contribute(comm: Comm, place: str, local: Callable[[], object], timeout: float) -> object:
    comm.send(0, _attempt(local, place))
    (answer,) = _collect(comm, {0}, timeout * 2).values()
    return _share(answer)


def depart(comm: Comm, timeout: float) -> None:
    """Leave, rank 0 once all others have said that they do; raises RayhpcError for one that does not say so.

    srun ends a step when one of its ranks has ended with an error: rank 0's exit code must come last.
    """
    if comm.rank != 0:
        comm.send(0, Contribution())
    else:
        _collect(comm, set(range(1, comm.size)), timeout)
    comm.leave()


def _share(answer: Contribution[object]) -> object:
    """The share in rank 0's answer; raises RayhpcError with its fault."""
    if answer.fault is not None:
        raise RayhpcError(answer.fault)
    return answer.value


def _attempt(work: Callable[[], object], place: str) -> Contribution[object]:
    try:
        return Contribution(value=work())
    except RayhpcError as error:
        return Contribution(fault=error.fault.on(place, time.time()))
    except Exception as error:  # a bug on one rank must not strand the others
        return Contribution(fault=internal(error).on(place, time.time()))


def _answers(
    found: list[Contribution[object]], combine: Callable[[list[T]], list[S]], place: str
) -> list[Contribution[object]]:
    """Rank 0's answers in rank order: the shares, or to all the faults as one."""
    faults = [entry.fault for entry in found if entry.fault is not None]
    if faults:
        return [Contribution(fault=merged(faults))] * len(found)
    try:
        return [Contribution(value=share) for share in combine([cast(T, entry.value) for entry in found])]
    except Exception as error:
        fault = error.fault if isinstance(error, RayhpcError) else internal(error)
        return [Contribution(fault=fault.on(place, time.time()))] * len(found)


def _collect(comm: Comm, ranks: set[int], timeout: float) -> dict[int, Contribution[object]]:
    """One contribution from each of the ranks; raises RayhpcError with those that are missing when the time is over."""
    contributions: dict[int, Contribution[object]] = {}
    began = time.monotonic()
    end = began + timeout
    while missing := ranks - set(contributions):
        received = comm.receive()
        if received is not None:
            rank, mail = received
            if isinstance(mail, Contribution):
                contributions[rank] = mail
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
            time.sleep(pause(time.monotonic() - began))
    return contributions


def pause(waited: float) -> float:
    """Seconds until the next look for mail: a hundredth of the wait so far. A thousand ranks on a host let it work."""
    return min(max(0.001, waited / 100), 0.1)


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
