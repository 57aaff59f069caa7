"""docs/schedulers.md: which scheduler was asked what, from the marks of the suite's tests.

usage: python -m tests.schedulers.table > docs/schedulers.md
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator

from . import test_all
from .sites import ALL

COLUMNS = {
    "slurm": "Slurm",
    "sge": "Grid Engine",
    "pbs": "PBS",
    "lsf": "LSF",
    "flux": "Flux",
    "cobalt": "Cobalt",
    "torque": "Torque",
}
# What tests of one scheduler alone show: {(thing, scheduler): (kind, test)}.
ELSEWHERE = {
    ("test_open_mpi", "slurm"): ("real", "tests/slurm/test_jobscript.py::test_four_hosts_and_the_exit_code"),
    ("test_open_mpi", "pbs"): ("stand-in", "tests/standin/test_pbs.py::test_what_the_script_sets_reaches_all_hosts"),
    ("test_arguments", "cobalt"): ("stand-in", "tests/standin/test_pbs.py::test_theta_under_cobalt"),
}
BEFORE = """# What was tried on each scheduler

The same things are asked of every scheduler by one suite of tests, `tests/schedulers`, in each run of CI. This page is
made from it.

* **real**: the scheduler itself, on virtual hosts with an address each: Slurm 22.05 and Grid Engine 8.1.9 of Debian 12.
* **stand-in**: `tests/standin` plays the scheduler on one machine and really runs the shipped jobscript under its
  rules: variables, hosts, signals, requeue, output. MPI, rayhpc and Ray are real. The rules of PBS are those that a
  real OpenPBS showed; those of LSF and Flux are their manuals', of Flux also its source's.
* **not tried**: no test.
"""
AFTER = """
What is special of a scheduler is on its own page: [Slurm](slurm.md), [Grid Engine](sge.md), [PBS and Torque](pbs.md),
[LSF](lsf.md), [Flux](flux.md), [Cobalt](theta.md). A real OpenPBS was tried by hand once: [pbs.md](pbs.md) says what.
"""


def page() -> str:
    return BEFORE + "\n" + "".join(f"{line}\n" for line in table()) + AFTER


def table() -> Iterator[str]:
    yield f"| | {' | '.join(COLUMNS.values())} |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name, test in things(test_all):
        thing = (test.__doc__ or "").strip().partition("\n")[0]
        yield row(thing, name, asked(test))


def things(module: types.ModuleType) -> list[tuple[str, Callable[..., None]]]:
    return [(name, test) for name, test in vars(module).items() if name.startswith("test_")]


def row(thing: str, name: str, asked_of: set[str]) -> str:
    """A thing, and how each scheduler was asked."""
    elsewhere = {scheduler: kind for (other, scheduler), (kind, _) in ELSEWHERE.items() if other == name}
    cells = [ALL[each].kind if each in asked_of else elsewhere.get(each, "not tried") for each in COLUMNS]
    return f"| {thing} | {' | '.join(cells)} |"


def asked(test: Callable[..., None]) -> set[str]:
    """The schedulers that a test is run with."""
    marks: list[types.SimpleNamespace] = getattr(test, "pytestmark", [])
    return {entry.values[0] for mark in marks if mark.name == "parametrize" for entry in mark.args[1]}


if __name__ == "__main__":
    print(page(), end="")
