"""The end of the job: when the scheduler is asked again, and what its answer changes. The clock is ours."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pytest

from rayhpc.bootstrap import deadline
from rayhpc.bootstrap.deadline import EndOfJob
from rayhpc.options import Options


class Clock:
    now = 1000.0

    def time(self) -> float:
        return self.now


class Scheduler:
    """Counts the questions; answer None: it does not say."""

    def __init__(self, answer: float | None) -> None:
        self.answer, self.questions = answer, 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def ask(self) -> float | None:
        self.questions += 1
        assert self.may_answer.wait(10)
        return self.answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(deadline, "time", made)
    return made


def moved_by(end: EndOfJob, mark: float = 60.0) -> float:
    """How far the end has moved, once the scheduler has answered what it may have been asked."""
    moved = end.refresh(mark)
    for thread in threading.enumerate():
        if thread.name == deadline.THREAD:
            thread.join(10)
    return moved or end.refresh(mark)


def test_an_extended_job(clock: Clock, tmp_path: Path) -> None:
    scheduler = Scheduler(8600.0)
    end = EndOfJob(5000.0, scheduler.ask, tmp_path / "deadline")
    clock.now += 299
    assert (moved_by(end), scheduler.questions) == (0.0, 0)
    clock.now += 1
    assert (moved_by(end), end.left) == (3600.0, 7300.0)
    end.write()
    assert (tmp_path / "deadline").read_text() == "8600\n"


def test_it_is_asked_before_something_is_done(clock: Clock, tmp_path: Path) -> None:
    """Ten seconds before the mark; until the answer is there nothing is certain."""
    scheduler = Scheduler(1100.0)
    end = EndOfJob(1100.0, scheduler.ask, tmp_path / "deadline")
    clock.now = 1029.0
    assert end.refresh(60.0) == 0.0
    assert not end.certain and scheduler.questions == 0  # the first answer is too old by then, and the mark is far
    clock.now = 1030.0
    scheduler.may_answer.clear()
    end.refresh(60.0)
    assert not end.certain
    scheduler.may_answer.set()
    assert moved_by(end) == 0.0
    assert (end.certain, scheduler.questions) == (True, 1)


@pytest.mark.parametrize(
    ("answer", "moved", "left"),
    [(1000.0, -4000.0, -300.0), (math.inf, math.inf, math.inf), (None, 0.0, 3700.0), (5059.0, 0.0, 3700.0)],
    ids=["shortened", "no limit any more", "no answer", "whole minutes"],
)
def test_answers(clock: Clock, tmp_path: Path, answer: float | None, moved: float, left: float) -> None:
    end = EndOfJob(5000.0, Scheduler(answer).ask, tmp_path / "deadline")
    clock.now += 300
    assert (moved_by(end), end.left) == (moved, left)


def test_a_job_without_an_end_may_get_one(clock: Clock, tmp_path: Path) -> None:
    end = EndOfJob(0.0, Scheduler(5000.0).ask, tmp_path / "deadline")
    assert end.left == math.inf
    clock.now += 300
    assert (moved_by(end), end.left) == (-math.inf, 3700.0)


def test_a_fixed_end_is_certain(clock: Clock, tmp_path: Path) -> None:
    end = EndOfJob(5000.0, None, tmp_path / "deadline")
    clock.now += 3950
    assert (end.refresh(60.0), end.certain, end.left) == (0.0, True, 50.0)


@pytest.mark.parametrize("options", [Options(walltime="600"), Options(deadline=2e9)])
def test_nobody_is_asked_about_what_the_user_has_fixed(options: Options) -> None:
    assert deadline.question(options, {"SLURM_JOB_ID": "7"}) is None
    assert deadline.question(Options(), {}) is None


def test_the_scheduler_is_asked_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment has told the end at the start: that is the old one."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "JobId=$5 StartTime=2026-11-21T09:52:30 EndTime=2026-11-21T11:52:30"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    ask = deadline.question(Options(), {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "5"})
    assert ask is not None
    assert ask() == time.mktime(time.strptime("2026-11-21 11:52:30", "%Y-%m-%d %H:%M:%S"))
