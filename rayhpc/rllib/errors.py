"""What ends a training before it begins, and the exit codes of a training driver."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_RETURN_MISSED = 1
EXIT_USAGE = 2
EXIT_REQUEUE = 75
EXIT_INTERRUPTED = 130


class UsageError(Exception):
    """What was asked for cannot be done; the message says why and what to do instead."""


def exit_code(reason: str, best: float, required: float | None) -> int:
    """The exit code of a run that ended for this reason with this best mean return."""
    if reason in ("signal", "deadline"):
        return EXIT_REQUEUE
    if reason == "interrupt":
        return EXIT_INTERRUPTED
    missed = required is not None and not best >= required
    return EXIT_RETURN_MISSED if missed else EXIT_DONE
