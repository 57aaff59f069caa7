"""A fault's four parts, and the one fault that several make."""

from __future__ import annotations

import pickle
from importlib.metadata import PackageNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration, counted, merged, not_importable, shortened
from rayhpc.ranks.comm import internal

FULL = Fault(
    "the head did not start",
    ExitCode.BRING_UP,
    "rank 0 on n1",
    ("bind: Address in use", "exit status 1"),
    "choose another --port",
    at=12.0,
)


def test_the_text_has_what_where_evidence_and_what_to_do() -> None:
    assert FULL.text().splitlines() == [
        "rayhpc: the head did not start  [rank 0 on n1]",
        "    bind: Address in use",
        "    exit status 1",
        "  next: choose another --port",
        "  exit code 71: a Ray node did not start, or ended before the cluster was up",
    ]


def test_parts_that_are_not_known_leave_no_line() -> None:
    text = Fault("no driver was named", ExitCode.USAGE).text()
    assert text.splitlines() == ["rayhpc: no driver was named", "  exit code 2: the command line of rayhpc is wrong"]


def test_place_and_time_are_filled_in_once() -> None:
    bare = Fault("x", ExitCode.INTERNAL)
    assert (bare.on("rank 1 on a", 5.0).where, bare.on("rank 1 on a", 5.0).at) == ("rank 1 on a", 5.0)
    assert FULL.on("rank 9 on z", 99.0) == FULL


def test_an_error_carries_its_fault_through_pickle(hostile: str) -> None:
    error = configuration(hostile, hostile, next_step=hostile)
    copied = pickle.loads(pickle.dumps(error))
    assert isinstance(copied, RayhpcError)
    assert copied.fault == error.fault == Fault(hostile, ExitCode.CONFIGURATION, "", (hostile,), hostile)
    assert str(copied) == hostile


def fault(what: str, rank: int, at: float = 0.0, code: ExitCode = ExitCode.CONFIGURATION) -> Fault:
    return Fault(what, code, f"rank {rank} on h{rank}", at=at)


def test_one_fault_merged_is_itself() -> None:
    assert merged([FULL]) == FULL


def test_the_earliest_is_the_title() -> None:
    found = merged([fault("late", 0, 9.0), fault("early", 1, 3.0, ExitCode.INTERNAL), fault("later", 2, 10.0)])
    assert (found.what, found.code, found.where) == ("early", ExitCode.INTERNAL, "rank 1 on h1")
    assert found.evidence == ("also: late [rank 0 on h0]", "also: later [rank 2 on h2]")


def test_equal_faults_join_their_places() -> None:
    found = merged([fault("full", rank, 9.0 - rank) for rank in range(3)])
    assert (found.what, found.where, found.evidence) == ("full", "rank 0 on h0, rank 1 on h1, rank 2 on h2", ())


def test_a_thousand_ranks_fit_on_a_screen() -> None:
    same = merged([fault("full", rank) for rank in range(1000)])
    assert same.where.endswith("and 994 more")
    different = merged([fault(f"trouble {rank}", rank) for rank in range(1000)])
    assert len(different.evidence) == 5


def test_a_place_that_is_said_twice_is_named_once() -> None:
    assert merged([fault("full", 1), fault("full", 1)]).where == "rank 1 on h1"


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no fault"):
        merged([])


@given(st.lists(st.builds(fault, st.sampled_from("abc"), st.integers(0, 5), st.floats(0, 100)), min_size=1, max_size=8))
def test_merging_loses_no_kind_of_fault(faults: list[Fault]) -> None:
    found = merged(faults)
    assert found.at == min(entry.at for entry in faults)
    told = {found.what} | {line.split()[1] for line in found.evidence}
    assert told == {entry.what for entry in faults}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "n0"), (6, "n0, n1, n2, n3, n4, n5"), (7, "n0, n1, n2, n3, n4, n5 and 1 more")],
)
def test_shortened(count: int, text: str) -> None:
    assert shortened([f"n{n}" for n in range(count)]) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 hosts"), (1, "1 host"), (2, "2 hosts")])
def test_counted(number: int, text: str) -> None:
    assert counted(number, "host") == text


@pytest.mark.parametrize(
    ("error", "what", "step"),
    [
        (PackageNotFoundError("ray"), "ray cannot be imported", "pip install 'ray[rllib]'"),
        (ModuleNotFoundError("No module named 'psutil'", name="psutil"), "psutil cannot be imported", "rayhpc"),
        (ImportError("libfoo.so.1: cannot open"), "a package cannot be imported", "rayhpc"),
    ],
)
def test_a_package_that_is_missing_is_no_bug_of_ours(error: ImportError, what: str, step: str) -> None:
    found = not_importable(error)
    assert (found.code, found.what) == (ExitCode.CONFIGURATION, what)
    assert found.next_step.endswith(step)
    assert str(error) in found.evidence[0]
    assert internal(error) == found
    assert internal(ValueError("x")).code == ExitCode.INTERNAL
