"""Alive, gone or unknown: a table of what the witnesses may say."""

from __future__ import annotations

import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc.clusters.liveness import FRESH_SECONDS, Life, Witnesses, judge
from rayhpc.host import network
from rayhpc.host.network import Knock
from rayhpc.schedulers.facts import JobState, State

ALIVE, GONE, UNKNOWN = Life.ALIVE, Life.GONE, Life.UNKNOWN
OPEN, REFUSED, SILENT = Knock.OPEN, Knock.REFUSED, Knock.SILENT
FRESH, STALE = 10.0, 500.0
# What a scheduler may say; None where there is none, or it refuses; FORGOTTEN where it answers without the job.
RUNS, WAITS, ENDED = JobState(State.RUNNING, "R"), JobState(State.PENDING, "PD"), JobState(State.TIMEOUT, "TIMEOUT")
FORGOTTEN, ODD = JobState(State.UNKNOWN), JobState(State.UNKNOWN, "WARPED")


@pytest.mark.parametrize(
    ("job", "age", "port", "life", "why"),
    [
        # Outside of a scheduler, or where it does not answer.
        (None, FRESH, OPEN, ALIVE, "heard of 10 s ago"),
        (None, FRESH, SILENT, ALIVE, "heard of 10 s ago"),
        (None, FRESH, REFUSED, UNKNOWN, "its port is closed, heard of 10 s ago"),
        (None, STALE, OPEN, UNKNOWN, "port: it answers, heard of 8 min ago"),
        (None, STALE, SILENT, UNKNOWN, "port: nobody answers, heard of 8 min ago"),
        (None, STALE, REFUSED, GONE, "its port is closed, heard of 8 min ago"),
        # Its job runs. A file server or a clock may be late, a firewall in between; a requeued job keeps its id.
        (RUNS, FRESH, OPEN, ALIVE, "heard of 10 s ago"),
        (RUNS, FRESH, SILENT, ALIVE, "heard of 10 s ago"),
        (RUNS, FRESH, REFUSED, ALIVE, "heard of 10 s ago"),
        (RUNS, STALE, OPEN, ALIVE, "its job runs, port: it answers, heard of 8 min ago"),
        (RUNS, STALE, SILENT, UNKNOWN, "its job runs, port: nobody answers, heard of 8 min ago"),
        (RUNS, STALE, REFUSED, GONE, "its port is closed, heard of 8 min ago"),
        # Its job has ended: a moment ago, or on another machine, where a job has the same id.
        (ENDED, FRESH, OPEN, UNKNOWN, "its job has ended (TIMEOUT), heard of 10 s ago"),
        (ENDED, FRESH, SILENT, UNKNOWN, "its job has ended (TIMEOUT), heard of 10 s ago"),
        (ENDED, FRESH, REFUSED, UNKNOWN, "its job has ended (TIMEOUT), heard of 10 s ago"),
        (ENDED, STALE, OPEN, GONE, "its job has ended (TIMEOUT), heard of 8 min ago"),
        (ENDED, STALE, SILENT, GONE, "its job has ended (TIMEOUT), heard of 8 min ago"),
        (ENDED, STALE, REFUSED, GONE, "its job has ended (TIMEOUT), heard of 8 min ago"),
        # Its job is in the queue again.
        (WAITS, FRESH, OPEN, UNKNOWN, "its job waits to run again, heard of 10 s ago"),
        (WAITS, STALE, SILENT, GONE, "its job waits to run again, heard of 8 min ago"),
        # Its scheduler has forgotten it, or is another machine's.
        (FORGOTTEN, FRESH, OPEN, ALIVE, "heard of 10 s ago"),
        (FORGOTTEN, FRESH, SILENT, UNKNOWN, "its scheduler does not know the job any more, heard of 10 s ago"),
        (FORGOTTEN, STALE, OPEN, UNKNOWN, "port: it answers, heard of 8 min ago"),
        (FORGOTTEN, STALE, SILENT, GONE, "its scheduler does not know the job any more, heard of 8 min ago"),
        (FORGOTTEN, STALE, REFUSED, GONE, "its scheduler does not know the job any more, heard of 8 min ago"),
        # Its scheduler says a word that we do not know.
        (ODD, FRESH, OPEN, ALIVE, "heard of 10 s ago"),
        (ODD, STALE, OPEN, UNKNOWN, "port: it answers, heard of 8 min ago"),
        (ODD, STALE, SILENT, UNKNOWN, "port: nobody answers, heard of 8 min ago"),
    ],
)
def test_the_verdict(job: JobState | None, age: float, port: Knock, life: Life, why: str) -> None:
    verdict = judge(Witnesses(age, port, job))
    assert (verdict.life, verdict.why) == (life, why)


JOBS = st.none() | st.builds(JobState, st.sampled_from(State), st.sampled_from(["", "word"]))


@given(st.floats(0, FRESH_SECONDS), st.sampled_from(Knock), JOBS)
def test_what_was_there_a_moment_ago_is_never_gone(age: float, port: Knock, job: JobState | None) -> None:
    assert judge(Witnesses(age, port, job)).life is not GONE


@given(st.floats(0, 1e9), st.floats(FRESH_SECONDS, math.inf, exclude_min=True))
def test_age_alone_makes_nothing_gone(age: float, more: float) -> None:
    assert judge(Witnesses(age, SILENT)).life is not GONE
    assert judge(Witnesses(more, SILENT)).life is UNKNOWN


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (0.4, "heard of 0 s ago"), (119.0, "heard of 119 s ago"), (120.0, "heard of 2 min ago"),
        (7200.0, "heard of 2 h ago"), (200000.0, "heard of 2 d ago"), (math.inf, "never heard of"),
    ],
)  # fmt: skip
def test_ages_are_told_in_words(age: float, words: str) -> None:
    assert judge(Witnesses(age, SILENT)).why.endswith(words)


def test_a_port_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        assert network.knock(place, 5.0) is OPEN
    with socket.socket() as bound:  # and deaf, so that nobody else can answer there
        bound.bind(("127.0.0.1", 0))
        assert network.knock(f"127.0.0.1:{bound.getsockname()[1]}", 5.0) is REFUSED
    # A name that does not resolve; no port at all.
    assert [network.knock(silent, 0.2) for silent in ("no-such-host.invalid:1", "", "host:port")] == [SILENT] * 3


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_a_port_of_ipv6_is_asked() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert network.knock(f"[::1]:{server.getsockname()[1]}", 5.0) is OPEN
