"""The supervisor: what it notes, what it passes to the driver, whom it misses. Its clock is ours."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from rayhpc.bootstrap import deadline, supervise
from rayhpc.bootstrap.supervise import Supervisor
from rayhpc.errors import ExitCode
from rayhpc.messages import (
    Alive,
    DriverEnded,
    HeadSilent,
    Milestone,
    NodeDead,
    NodeEnded,
    RankSilent,
    RestartNode,
    SignalArrived,
    TimeUp,
)
from rayhpc.model import AliveNode, ClusterSpec
from rayhpc.options import Options
from rayhpc.ranks import heartbeats
from rayhpc.ranks.heartbeats import Heartbeats
from rayhpc.records.run_directory import EventLog
from tests.unit.making import cluster, context

INT, TERM, USR1 = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGUSR1)


@dataclass
class Clock:
    now: float = 1000.0
    strftime = staticmethod(time.strftime)
    localtime = staticmethod(time.localtime)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@dataclass
class FakeWatch:
    """Mail that has come, a batch a poll; every rank is heard of."""

    batches: list[list[tuple[int, Any]]] = field(default_factory=list)
    talking: tuple[int, ...] = ()

    def wait(self) -> list[tuple[int, Any]]:
        return [(rank, Alive()) for rank in self.talking] + (self.batches.pop(0) if self.batches else [])


@dataclass
class FakeComm:
    rank: int = 0
    size: int = 3
    gone: frozenset[int] = frozenset()
    sent: list[tuple[int, Any]] = field(default_factory=list)

    def send(self, to: int, message: object) -> None:
        self.sent.append((to, message))


@dataclass
class FakeDriver:
    signals: list[int] = field(default_factory=list)
    ends: int = 0

    def signal(self, signum: int) -> None:
        self.signals.append(signum)

    def end(self) -> None:
        self.ends += 1


@dataclass
class FakeTable:
    nodes: tuple[AliveNode, ...] | None = None
    silence: float = 0.0
    closed: bool = False

    def alive(self, *ranks: int, start: str = "first") -> None:
        self.nodes = tuple(AliveNode(rank, "", 2.0, 0.0, f"{start}-{rank}") for rank in ranks)


class Stage:
    """A supervisor on fakes."""

    def __init__(self, directory: Path, clock: Clock, options: Options, spec: ClusterSpec) -> None:
        self.clock, self.watch, self.comm, self.driver = clock, FakeWatch(), FakeComm(), FakeDriver()
        self.table = FakeTable()
        self.log = EventLog(directory)
        self.events = directory / "events.jsonl"
        made = context(directory, comm=self.comm, watch=self.watch, options=options, log=self.log)
        self.supervisor = Supervisor(made, spec, cast(Any, self.table))

    def drive(self) -> None:
        self.supervisor.accept()
        self.supervisor.drive(cast(Any, self.driver))

    def come(self, *mail: Any) -> Any:
        self.watch.batches.append([(entry[0], entry[1]) if isinstance(entry, tuple) else (0, entry) for entry in mail])
        return self.supervisor.poll()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (heartbeats, supervise, deadline):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def stage(tmp_path: Path, clock: Clock) -> Iterator[Stage]:
    made = Stage(tmp_path, clock, Options(stop_timeout=8.0, grace=60.0), cluster(3))
    yield made
    made.log.close()


def test_a_signal_that_every_rank_got_reaches_the_driver_once(stage: Stage) -> None:
    stage.drive()
    stage.come(*[(rank, SignalArrived(rank, USR1, 1)) for rank in range(3)])
    stage.come((2, SignalArrived(2, USR1, 1)))
    assert (stage.driver.signals, stage.driver.ends) == ([USR1], 0)


def test_each_further_user_signal_is_passed_on(stage: Stage) -> None:
    stage.drive()
    stage.come(SignalArrived(0, USR1, 1), SignalArrived(0, USR1, 2))
    assert stage.driver.signals == [USR1, USR1]


def test_term_is_passed_on_and_the_second_hastens_the_end(stage: Stage) -> None:
    stage.drive()
    stage.come(SignalArrived(0, TERM, 1), SignalArrived(1, TERM, 1))
    assert (stage.driver.signals, stage.driver.ends) == ([TERM], 0)
    stage.come(SignalArrived(0, TERM, 2))
    assert (stage.driver.signals, stage.driver.ends) == ([TERM], 1)


def test_int_after_term_hastens_the_end(stage: Stage) -> None:
    stage.drive()
    stage.come(SignalArrived(0, TERM, 1))
    stage.come(SignalArrived(0, INT, 1))
    assert (stage.driver.signals, stage.driver.ends) == ([TERM], 1)


def test_a_driver_that_does_not_obey_is_ended_after_the_stop_timeout_once(stage: Stage) -> None:
    stage.drive()
    stage.come(SignalArrived(0, INT, 1))
    stage.watch.talking = (1, 2)
    stage.clock.now += 7.9
    stage.come()
    assert stage.driver.ends == 0
    stage.clock.now += 0.2
    stage.come()
    stage.come()
    assert stage.driver.ends == 1


def test_a_signal_before_the_driver_decides(stage: Stage) -> None:
    assert stage.come(SignalArrived(1, INT, 1)).code == 130


def test_the_end_of_the_job_is_told_once_and_reached_once(tmp_path: Path, clock: Clock) -> None:
    options = Options(grace=60.0, grace_signal="USR2")
    stage = Stage(tmp_path, clock, options, cluster(1, deadline=clock.now + 100))
    stage.drive()
    signals = []
    for seconds in range(0, 100, 2):
        stage.come()
        signals.append((seconds, tuple(stage.driver.signals), stage.driver.ends))
        clock.now += 2
    told = next(seconds for seconds, sent, _ in signals if sent)
    ended = next(seconds for seconds, _, ends in signals if ends)
    assert (told, ended) == (40, 94)
    assert (stage.driver.signals, stage.driver.ends) == ([int(signal.SIGUSR2)], 1)
    assert [event.final for event in stage.supervisor.history if isinstance(event, TimeUp)] == [False, True]


@pytest.fixture
def movable(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stage, list[float]]]:
    """A job that ends in 400 s, and the scheduler's answers: the last one counts."""
    answers = [clock.now + 400]
    monkeypatch.setattr(supervise, "question", lambda _options, _environ: lambda: answers[-1])
    made = Stage(tmp_path, clock, Options(grace=60.0), cluster(1, deadline=answers[0], run_dir=str(tmp_path)))
    made.drive()
    yield made, answers
    made.log.close()


def pass_seconds(stage: Stage, seconds: int) -> None:
    """One look a second; a question has been answered by the next."""
    for _ in range(seconds):
        stage.clock.now += 1
        stage.come()
        for thread in threading.enumerate():
            if thread.name == deadline.THREAD:
                thread.join(10)
        stage.come()


def test_an_extended_job_is_signalled_before_its_new_end(
    movable: tuple[Stage, list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Extended after the last question, 100 s before its end: it is asked again before the signal."""
    stage, answers = movable
    told: list[float] = []
    stage.supervisor.follow_end(told.append)
    pass_seconds(stage, 310)
    answers.append(answers[0] + 3600)
    pass_seconds(stage, 100)
    assert (stage.driver.signals, stage.driver.ends) == ([], 0)
    assert "the end of the job has moved: " in capsys.readouterr().err
    assert (tmp_path / "deadline").read_text() == f"{answers[-1]:.0f}\n"
    assert told == answers
    pass_seconds(stage, 3530)
    assert stage.driver.signals == [USR1]


def test_a_job_that_is_extended_in_its_grace_goes_on_and_is_signalled_again(movable: tuple[Stage, list[float]]) -> None:
    stage, answers = movable
    pass_seconds(stage, 345)
    assert stage.driver.signals == [USR1]
    answers.append(answers[0] + 600)
    pass_seconds(stage, 100)
    assert (stage.driver.signals, stage.driver.ends) == ([USR1], 0)
    pass_seconds(stage, 500)
    assert stage.driver.signals == [USR1, USR1]


def test_a_shortened_job_is_signalled_and_ended_in_time(movable: tuple[Stage, list[float]]) -> None:
    stage, answers = movable
    answers.append(answers[0] - 65)  # 335 s from the start
    pass_seconds(stage, 305)
    assert stage.driver.signals == [USR1]
    pass_seconds(stage, 25)
    assert stage.driver.ends == 1


def test_a_scheduler_that_is_silent_does_not_keep_the_driver_alive(
    movable: tuple[Stage, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = movable
    monkeypatch.setattr(deadline.EndOfJob, "certain", False)
    for _ in range(395):
        stage.clock.now += 1
        stage.come()
    assert stage.driver.ends == 1


def test_without_a_deadline_no_time_is_up(stage: Stage) -> None:
    stage.drive()
    stage.watch.talking = (1, 2)
    for _ in range(100):
        stage.clock.now += 1.0
        stage.come()
    assert stage.supervisor.history == []


def test_a_node_that_was_alive_and_is_no_more_is_dead_once(stage: Stage) -> None:
    stage.drive()
    stage.table.alive(0, 1)
    stage.come()
    stage.table.alive(0)
    stage.come()
    stage.come()
    assert stage.supervisor.history == [NodeDead(1, "host1")]


def test_a_node_that_has_ended_is_not_dead_as_well(stage: Stage) -> None:
    stage.drive()
    stage.table.alive(0, 1, 2)
    stage.come()
    stage.come((1, NodeEnded(1, "host1", -9)))
    stage.table.alive(0, 2)
    stage.come()
    assert [type(event) for event in stage.supervisor.history] == [NodeEnded]


def test_a_node_that_was_never_alive_is_not_dead(stage: Stage) -> None:
    stage.table.alive(0)
    assert stage.come() is None
    assert stage.supervisor.history == []


def test_a_silent_head_is_noted_once_and_only_after_it_has_spoken(stage: Stage) -> None:
    stage.drive()
    stage.table.silence = 100.0
    stage.come()
    assert stage.supervisor.history == []
    stage.table.alive(0, 1, 2)
    assert stage.come().code == ExitCode.HEAD_LOST
    stage.come()
    assert [type(event) for event in stage.supervisor.history] == [HeadSilent]


def test_a_head_whose_port_refuses_has_ended(stage: Stage) -> None:
    stage.drive()
    stage.table.alive(0, 1, 2)
    stage.table.closed = True
    outcome = stage.come()
    assert (outcome.code, outcome.cause) == (ExitCode.HEAD_LOST, "the head is lost: its GCS has ended")


def test_a_head_that_was_never_alive_is_judged_by_its_own_end(stage: Stage) -> None:
    stage.table.alive()
    stage.table.closed = True
    assert stage.come() is None
    assert stage.supervisor.history == []


def test_a_silent_rank_is_missed_once_and_doubtful(stage: Stage) -> None:
    stage.drive()
    stage.watch.talking = (2,)
    for _ in range(30):
        stage.clock.now += 1.0
        stage.come()
    silent = [event for event in stage.supervisor.history if isinstance(event, RankSilent)]
    assert [event.rank for event in silent] == [1]
    assert stage.supervisor.doubtful() == {1}


def test_a_rank_whose_connection_ends_is_lost_at_once(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.drive()
    stage.comm.gone = frozenset({1})
    for _ in range(2):
        assert stage.come() is None
    assert [(event.rank, event.closed) for event in stage.supervisor.history if isinstance(event, RankSilent)] == [
        (1, True)
    ]
    assert stage.supervisor.doubtful() == {1}
    assert "LOST rank 1 on host1: the rank has ended, or its connection has" in capsys.readouterr().err


def test_every_other_rank_hears_of_rank_0(stage: Stage) -> None:
    stage.watch.talking = (1, 2)
    for _ in range(10):
        stage.clock.now += 1.0
        stage.come()
    assert {rank for rank, message in stage.comm.sent if message == Alive()} == {1, 2}


def test_a_loss_is_told_once_with_what_is_left(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.drive()
    assert stage.come((1, NodeEnded(1, "host1", -9)), (1, NodeDead(1, "host1"))) is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "LOST rank 1 on host1: the Ray node was killed by SIGKILL; the run goes on with 2 nodes" in lines[0]


def test_an_idle_ranks_silence_takes_no_node_away(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path, clock, Options(one_per_host=True), cluster(1, ranks=2))
    stage.drive()
    stage.come((1, RankSilent(1, "rank 1", 12.0)))
    assert "0 nodes" not in capsys.readouterr().err


def test_a_loss_that_min_nodes_forgave_stays_forgiven(tmp_path: Path, clock: Clock) -> None:
    stage = Stage(tmp_path, clock, Options(min_nodes=2, on_node_loss="abort"), cluster(3))
    assert stage.come((1, NodeEnded(1, "host1", 1))) is None
    stage.drive()
    assert stage.come() is None
    assert stage.come((2, NodeEnded(2, "host2", 1))).code == ExitCode.NODE_LOST


def test_a_milestone_is_an_event_of_the_record_and_not_of_the_history(stage: Stage) -> None:
    stage.come((1, Milestone(1, "host1", "start", 12.5)), (0, DriverEnded(3)))
    stage.log.close()
    first, second = map(json.loads, stage.events.read_text().splitlines())
    assert (first["stage"], first["rank"], first["at"]) == ("start", 1, 12.5)
    assert (second["stage"], second["event"]) == ("DriverEnded", {"code": 3, "keeper": 0})
    assert stage.supervisor.history == [DriverEnded(3)]


def test_each_node_is_noted_when_it_is_first_alive(stage: Stage) -> None:
    stage.come((2, Milestone(2, "host2", "imported", 12.5, since=11.0)))
    for ranks in ((0,), (0,), (0, 2), (0, 2), (0, 1, 2)):
        stage.table.alive(*ranks)
        stage.come()
    stage.log.close()
    first, *others = map(json.loads, stage.events.read_text().splitlines())
    assert (first["stage"], first["at"], first["since"]) == ("imported", 12.5, 11.0)
    told = [(entry["stage"], entry["rank"], entry["host"]) for entry in others]
    assert told == [("alive", 0, "host0"), ("alive", 2, "host2"), ("alive", 1, "host1")]


def test_beats_come_more_slowly_with_more_ranks(clock: Clock) -> None:
    assert Heartbeats(64, {1}).pause == Heartbeats(2, {1}).pause == 2.0
    assert Heartbeats(640, {1}).pause == pytest.approx(20.0)


def test_beats_are_due_once_a_pause(clock: Clock) -> None:
    beats = Heartbeats(2, {1})
    due = []
    for _ in range(60):
        clock.now += 0.1
        due.append(beats.due())
    assert sum(due) in (2, 3)


def test_who_speaks_is_not_missed(clock: Clock) -> None:
    beats = Heartbeats(3, {1, 2})
    for _ in range(20):
        clock.now += 1.0
        beats.heard(1)
    assert [rank for rank, _ in beats.missed()] == [2]
    assert beats.missed() == []
    assert beats.expected == (1,)


def test_who_was_missed_and_speaks_again_is_expected_again(clock: Clock) -> None:
    beats = Heartbeats(3, {1, 2})
    clock.now += 13.0
    beats.heard(1)
    assert [rank for rank, _ in beats.missed()] == [2]
    assert beats.quiet() == {2}
    beats.heard(2)
    assert (set(beats.expected), beats.quiet()) == ({1, 2}, frozenset())


def test_a_stranger_is_never_expected(clock: Clock) -> None:
    beats = Heartbeats(3, {1})
    beats.heard(7)
    clock.now += 100
    assert beats.missed() == [(1, 100.0)]


@pytest.fixture
def mending(tmp_path: Path, clock: Clock) -> Iterator[Stage]:
    """Under --restart-nodes=1, with three nodes alive."""
    made = Stage(tmp_path, clock, Options(restart_nodes=1, on_node_loss="abort"), cluster(3))
    made.drive()
    made.table.alive(0, 1, 2)
    made.come()
    yield made
    made.log.close()


def test_a_lost_node_is_started_again_and_comes_back(mending: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert mending.come((1, NodeEnded(1, "host1", -9))) is None
    assert mending.comm.sent == [(1, RestartNode(1))]
    mending.table.alive(0, 2)
    assert mending.come() is None
    assert "is back" not in capsys.readouterr().err
    mending.table.nodes = (*mending.table.nodes, AliveNode(1, "", 2.0, 0.0, "second"))
    assert mending.come() is None
    assert "rank 1 on host1 is back: 3/3 Ray nodes" in capsys.readouterr().err
    assert mending.supervisor.history == []


def test_a_node_that_the_head_gave_up_is_started_again_and_its_end_is_no_second_loss(mending: Stage) -> None:
    mending.table.alive(0, 2)
    assert mending.come() is None
    assert mending.come((1, NodeEnded(1, "host1", -9))) is None
    assert mending.comm.sent == [(1, RestartNode(1))]


def test_the_old_row_of_a_node_that_is_started_again_is_not_its_return(mending: Stage) -> None:
    mending.come((1, NodeEnded(1, "host1", -9)))
    mending.come()
    assert mending.supervisor.roster.lost == {1}


def test_a_node_that_was_started_again_often_enough_is_lost(mending: Stage) -> None:
    mending.come((1, NodeEnded(1, "host1", -9)))
    assert mending.come((1, NodeEnded(1, "host1", 1, restart=1))).code == ExitCode.NODE_LOST


def test_the_head_is_never_started_again(mending: Stage) -> None:
    assert mending.come(NodeEnded(0, "host0", -9)).code == ExitCode.HEAD_LOST


def test_nothing_is_started_again_while_the_driver_is_being_ended(mending: Stage) -> None:
    mending.come(SignalArrived(0, TERM, 1), (1, NodeEnded(1, "host1", 1)))
    assert mending.comm.sent == []
