"""decide(): tables of histories, and what holds for every history."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc.bootstrap.decision import Policy, decide
from rayhpc.errors import ExitCode, Fault
from rayhpc.messages import (
    DriverEnded,
    Event,
    HeadSilent,
    NodeDead,
    NodeEnded,
    RankFailed,
    RankSilent,
    SignalArrived,
    TimeUp,
)
from rayhpc.model import Outcome
from tests.unit.making import node

INT, TERM, HUP, USR1, USR2 = (int(getattr(signal, f"SIG{name}")) for name in ("INT", "TERM", "HUP", "USR1", "USR2"))
NODES = tuple(node(rank) for rank in range(4))

RISING = Policy(NODES, "/run")
SPARE = replace(RISING, spare=1)
HELD = replace(RISING, up=True)
DRIVEN = replace(HELD, driven=True)
STRICT = replace(DRIVEN, abort_on_loss=True)

HEAD_ENDED, HEAD_KILLED, HEAD_DEAD = NodeEnded(0, "host0", 1), NodeEnded(0, "host0", -9), NodeDead(0, "host0")
LOST_1, DEAD_1, SILENT_1 = NodeEnded(1, "host1", 1), NodeDead(1, "host1"), RankSilent(1, "host1", 12.0)
LOST_2 = NodeEnded(2, "host2", -9, ("last words",))
FAILED = RankFailed(3, Fault("the token cannot be written", ExitCode.CONFIGURATION, "rank 3 on host3"))


def first(*events: Event, policy: Policy) -> Outcome:
    outcome = decide(events, policy)
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        (0, 0, "the driver ended with 0"),
        (7, 7, "the driver ended with 7"),
        (255, 255, "the driver ended with 255"),
        (-9, 137, "the driver was ended by SIGKILL"),
        (-15, 143, "the driver was ended by SIGTERM"),
        (-11, 139, "the driver was ended by SIGSEGV"),
        (75, 75, "the driver asks to be run again"),
    ],
)
def test_the_drivers_code_is_the_jobs(code: int, expected: int, words: str) -> None:
    assert decide([DriverEnded(code)], DRIVEN) == Outcome(expected, words)


def test_a_keeper_that_was_killed_is_named() -> None:
    """The driver, which dies with its parent, has killed it, or the kernel has, which lacks memory."""
    ended = DriverEnded(-9, keeper=-9)
    words = "the driver's parent, a keeper of rayhpc, was killed by SIGKILL, and the driver with it"
    assert decide([ended], DRIVEN) == Outcome(137, words)
    outcome = first(NodeEnded(1, "host1", -9, keeper=-9), policy=STRICT)
    assert outcome.cause == "the Ray node's parent, a keeper of rayhpc, was killed by SIGKILL, and the node with it"
    assert outcome.code == ExitCode.NODE_LOST


# signal.Signals() knows no real-time signal but the first and the last.
@pytest.mark.parametrize("number", [32, 35, 50, 63])
def test_a_real_time_signal_ends_the_driver(number: int) -> None:
    assert first(DriverEnded(-number), policy=DRIVEN).code == 128 + number


def test_a_real_time_signal_ends_a_node() -> None:
    assert first(NodeEnded(1, "host1", -40), policy=STRICT).code == ExitCode.NODE_LOST


@pytest.mark.parametrize("event", [HEAD_ENDED, HEAD_KILLED, HEAD_DEAD, HeadSilent(12.0), NodeEnded(0, "host0", 0)])
@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (RISING, ExitCode.BRING_UP),
        (SPARE, ExitCode.BRING_UP),
        (HELD, ExitCode.HEAD_LOST),
        (DRIVEN, ExitCode.HEAD_LOST),
        (STRICT, ExitCode.HEAD_LOST),
    ],
)
def test_without_the_head_nothing_goes_on(event: Event, policy: Policy, code: ExitCode) -> None:
    outcome = first(event, policy=policy)
    assert outcome.code == code
    assert outcome.fault is not None
    assert outcome.fault.where == "rank 0 on host0"
    assert "/run/rank-0.log" in outcome.fault.next_step


@pytest.mark.parametrize("event", [LOST_1, DEAD_1, SILENT_1, NodeEnded(1, "host1", 0)])
@pytest.mark.parametrize(
    ("policy", "code"),
    [(RISING, ExitCode.BRING_UP), (SPARE, None), (HELD, None), (DRIVEN, None), (STRICT, ExitCode.NODE_LOST)],
)
def test_a_lost_worker(event: Event, policy: Policy, code: ExitCode | None) -> None:
    outcome = decide([event], policy)
    assert (outcome and outcome.code) == code
    if outcome is not None:
        assert outcome.fault is not None
        assert outcome.fault.where == "rank 1 on host1"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (NodeEnded(1, "host1", 3), "the Ray node ended with 3"),
        (NodeEnded(1, "host1", -9), "the Ray node was killed by SIGKILL"),
        (DEAD_1, "Ray has declared the node dead"),
        (SILENT_1, "not been heard of for 12 s"),
    ],
)
def test_a_loss_is_told_in_words(event: Event, words: str) -> None:
    assert words in first(event, policy=RISING).cause


def test_a_nodes_last_words_are_the_evidence() -> None:
    outcome = first(LOST_2, policy=STRICT)
    assert outcome.fault is not None
    assert outcome.fault.evidence == ("last words",)


def test_a_second_lost_worker_is_one_more_than_can_be_spared() -> None:
    outcome = first(LOST_1, LOST_2, policy=SPARE)
    assert outcome.code == ExitCode.BRING_UP
    assert outcome.fault is not None
    assert outcome.fault.where == "rank 2 on host2"


def test_one_worker_lost_in_three_ways_is_lost_once() -> None:
    assert decide([LOST_1, DEAD_1, SILENT_1], SPARE) is None


@pytest.mark.parametrize("signum", [INT, TERM, HUP])
def test_a_signal_before_the_driver_ends_the_run(signum: int) -> None:
    assert first(SignalArrived(2, signum, 1), policy=RISING).code == 128 + signum


@pytest.mark.parametrize("signum", [INT, TERM, HUP])
def test_a_signal_ends_a_held_cluster_well(signum: int) -> None:
    assert first(SignalArrived(0, signum, 1), policy=HELD).code == 0


@pytest.mark.parametrize("signum", [INT, TERM, HUP, USR1, USR2])
def test_the_driver_has_the_last_word_on_signals(signum: int) -> None:
    arrived = SignalArrived(0, signum, 1)
    assert decide([arrived, replace(arrived, ordinal=2)], DRIVEN) is None
    assert first(arrived, DriverEnded(0), policy=DRIVEN).code == 0


@pytest.mark.parametrize("policy", [RISING, HELD, DRIVEN])
@pytest.mark.parametrize("signum", [USR1, USR2])
def test_user_signals_end_nothing(policy: Policy, signum: int) -> None:
    assert decide([SignalArrived(0, signum, 1)], policy) is None


@pytest.mark.parametrize(("policy", "code"), [(RISING, ExitCode.NOT_READY), (HELD, 0), (DRIVEN, None), (STRICT, None)])
def test_the_end_of_the_job(policy: Policy, code: int | None) -> None:
    outcome = decide([TimeUp(final=False), TimeUp(final=True)], policy)
    assert (outcome and outcome.code) == code
    assert decide([TimeUp(final=False)], policy) is None


@pytest.mark.parametrize("policy", [RISING, SPARE, HELD, DRIVEN, STRICT])
def test_a_rank_that_failed_is_the_outcome(policy: Policy) -> None:
    assert first(FAILED, policy=policy) == Outcome(ExitCode.CONFIGURATION, "the token cannot be written", FAILED.fault)


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ((DriverEnded(0), HEAD_DEAD), 0),  # the head ends with the driver: no fault
        ((HEAD_DEAD, DriverEnded(0)), ExitCode.HEAD_LOST),
        ((DriverEnded(3), LOST_1, FAILED), 3),
        ((LOST_1, DriverEnded(0)), ExitCode.NODE_LOST),
        ((FAILED, DriverEnded(0)), ExitCode.CONFIGURATION),
        ((HeadSilent(12.0), LOST_1), ExitCode.HEAD_LOST),
        ((LOST_1, HEAD_DEAD), ExitCode.NODE_LOST),
        ((SignalArrived(0, TERM, 1), TimeUp(final=True), DriverEnded(-15)), 143),
        ((SignalArrived(0, TERM, 1), DriverEnded(15)), 143),  # Ray's handler ends the driver with the signal's number
        ((SignalArrived(0, TERM, 1), DriverEnded(2)), 2),
        ((DriverEnded(15),), 15),
    ],
)
def test_the_first_event_that_decides_counts(history: tuple[Event, ...], code: int) -> None:
    assert first(*history, policy=STRICT).code == code


def test_an_empty_history_decides_nothing() -> None:
    assert [decide([], policy) for policy in (RISING, SPARE, HELD, DRIVEN, STRICT)] == [None] * 5


def test_the_same_history_gives_the_same_outcome() -> None:
    assert decide([HEAD_DEAD], DRIVEN) == decide([HEAD_DEAD], DRIVEN)


RANKS = st.integers(0, 3)
CODES = st.integers(-31, 255)
EVENTS = st.one_of(
    st.builds(SignalArrived, RANKS, st.sampled_from([INT, TERM, HUP, USR1, USR2]), st.integers(1, 3)),
    st.builds(NodeEnded, RANKS, st.just("h"), CODES),
    st.builds(NodeDead, RANKS, st.just("h")),
    st.builds(RankSilent, RANKS, st.just("h"), st.floats(0, 100)),
    st.builds(HeadSilent, st.floats(0, 100)),
    st.builds(DriverEnded, CODES),
    st.builds(TimeUp, st.booleans()),
    st.just(FAILED),
)
POLICIES = st.builds(
    Policy,
    nodes=st.just(NODES),
    log_dir=st.just("/run"),
    up=st.booleans(),
    driven=st.booleans(),
    abort_on_loss=st.booleans(),
    spare=st.integers(0, 3),
)


def gist(outcome: Outcome | None) -> tuple[object, ...]:
    return () if outcome is None else (outcome.code, outcome.cause, outcome.fault and outcome.fault.where)


@given(st.lists(EVENTS, max_size=6), st.lists(EVENTS, max_size=3), POLICIES)
def test_what_comes_later_changes_no_decision(history: list[Event], later: list[Event], policy: Policy) -> None:
    outcome = decide(history, policy)
    if outcome is not None:
        assert gist(decide([*history, *later], policy)) == gist(outcome)


@given(st.lists(EVENTS, max_size=6), POLICIES)
def test_an_outcome_is_an_exit_code_and_says_why(history: list[Event], policy: Policy) -> None:
    outcome = decide(history, policy)
    if outcome is not None:
        assert 0 <= outcome.code <= 255
        assert outcome.cause
        assert outcome.fault is None or outcome.code == outcome.fault.code


@given(st.lists(EVENTS, max_size=6), CODES)
def test_with_the_drivers_end_every_run_is_decided(history: list[Event], code: int) -> None:
    assert decide([*history, DriverEnded(code)], DRIVEN) is not None


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "line", ["ModuleNotFoundError: No module named 'msgpack'", "ImportError: libfoo.so: not found"]
)
def test_a_node_whose_ray_cannot_be_imported(rank: int, line: str) -> None:
    """Its environment is at fault, as long as the cluster has never been up."""
    ended = NodeEnded(rank, f"host{rank}", 1, ("Traceback (most recent call last):", line))
    fault = first(ended, policy=RISING).fault
    assert fault is not None
    assert (fault.code, fault.what) == (ExitCode.CONFIGURATION, f"Ray cannot be imported: {line}")
    assert "pip install 'ray[rllib]'" in fault.next_step
    assert first(ended, policy=STRICT).code != ExitCode.CONFIGURATION


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("up", "code"), [(False, ExitCode.CONFIGURATION), (True, ExitCode.NODE_LOST)])
def test_a_shortage_is_the_cause_of_a_node_that_does_not_start(rank: int, up: bool, code: ExitCode) -> None:
    """Later the node may have ended of something else: what was refused is evidence then."""
    line = "pthread_create failed: Resource temporarily unavailable"
    ended = NodeEnded(rank, f"host{rank}", 1, (line,))
    outcome = first(ended, policy=STRICT if up else RISING)
    assert outcome.fault is not None
    assert outcome.code == (ExitCode.HEAD_LOST if up and rank == 0 else code)
    assert outcome.fault.evidence == (line,)
    assert ("Ray lacks processes or threads" in outcome.fault.what) == (not up)
    assert ("pids.max" in outcome.fault.next_step) == (not up)
