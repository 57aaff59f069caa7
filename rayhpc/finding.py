"""What a check says: the record of a finding, equal ones of many hosts joined, and the report as people read it.

A check is a function; its name is its id, its docstring says what is well, why it matters, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from rayhpc.errors import ExitCode, Fault, counted, shortened


class Verdict(str, Enum):
    """How bad it is: a run that begins all the same may be slow or lose something, or it cannot work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check has found, in the parts of a fault. id: the check's; where: the host, filled in by who asks."""

    verdict: Verdict
    what: str
    evidence: tuple[str, ...] = ()
    next_step: str = ""
    id: str = ""
    where: str = ""

    @classmethod
    def of(cls, fault: Fault) -> Finding:
        """The refusal of a run, as a finding."""
        return cls(Verdict.FAIL, fault.what, fault.evidence, fault.next_step, where=fault.where)


def warn(what: str, *evidence: str, next_step: str) -> Finding:
    """A run would begin all the same."""
    return Finding(Verdict.WARN, what, evidence, next_step)


def fail(what: str, *evidence: str, next_step: str) -> Finding:
    """A run could not work."""
    return Finding(Verdict.FAIL, what, evidence, next_step)


def joined(findings: Iterable[Finding]) -> list[Finding]:
    """Failures first; equal ones of several hosts as one, with the evidence of the first."""
    places: dict[tuple[Verdict, str, str], dict[str, None]] = {}
    firsts: dict[tuple[Verdict, str, str], Finding] = {}
    for each in findings:
        key = (each.verdict, each.id, each.what)
        firsts.setdefault(key, each)
        places.setdefault(key, {})[each.where] = None
    together = [replace(first, where=shortened(list(places[key]), 3)) for key, first in firsts.items()]
    return sorted(together, key=lambda each: each.verdict is not Verdict.FAIL)


def worst(findings: Iterable[Finding]) -> Verdict:
    """FAIL if there is one, then WARN, else OK."""
    found = {each.verdict for each in findings}
    return next((verdict for verdict in (Verdict.FAIL, Verdict.WARN) if verdict in found), Verdict.OK)


def name(check: Callable[..., Iterable[Finding]]) -> str:
    """The id of a check."""
    return check.__name__.replace("_", "-")


def report(findings: Sequence[Finding], looked: str, then: str = "") -> str:
    """What people read: some lines for each finding, and one line that says how many there are.

    looked: who looked at what; then: what follows from it.
    """
    rows = [line for each in findings for line in _lines(each)]
    count = {verdict: sum(each.verdict is verdict for each in findings) for verdict in Verdict}
    bad = ", ".join(counted(count[verdict], name) for verdict, name in _NAMES if count[verdict])
    code = f"; {then or f'exit code {int(ExitCode.CONFIGURATION)}'}" if count[Verdict.FAIL] else ""
    return "\n".join([*rows, f"{looked}: {bad or 'all is well'}{code}"])


_NAMES = ((Verdict.FAIL, "failure"), (Verdict.WARN, "warning"))


def _lines(finding: Finding) -> list[str]:
    details = [*finding.evidence, *([f"next: {finding.next_step}"] if finding.next_step else [])]
    head = f"{finding.verdict.value:<4}  {finding.id}: {finding.what}  [{finding.where}]"
    return [head, *(f"      {line}" for line in details)]
