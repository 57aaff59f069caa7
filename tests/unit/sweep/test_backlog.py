"""The order of a sweep: what runs next, what runs again, what a search is told. With the real Optuna."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rayhpc.errors import RayhpcError
from rayhpc.sweep import trials
from rayhpc.sweep.backlog import Backlog
from rayhpc.sweep.plan import Parameter, Sweep
from rayhpc.sweep.trials import DONE, FAILED, PRUNED, STOPPED, Result, Trial

LR = (Parameter("lr", "uniform", (0.0, 1.0)),)


def make(folder: Path, **fields: object) -> Sweep:
    return Sweep("s", str(folder), command=("x",), metric="reward", **fields)  # type: ignore[arg-type]


def done(trial: Trial, reward: float) -> Result:
    return Result(DONE, 0, {"reward": reward})


def drain(backlog: Backlog) -> list[Trial]:
    return list(iter(backlog.next, None))


def test_samples_and_repeats(tmp_path: Path) -> None:
    backlog = Backlog(make(tmp_path, space=LR, samples=2, repeat=3, seed=5), tmp_path, [])
    found = drain(backlog)
    assert [(trial.sample, trial.values["seed"]) for trial in found] == [(0, 5), (0, 6), (0, 7), (1, 5), (1, 6), (1, 7)]
    assert len({trial.values["lr"] for trial in found}) == 2
    assert trials.read_trials(tmp_path) == found


def test_what_has_ended_does_not_run_again(tmp_path: Path) -> None:
    sweep = make(tmp_path, space=LR, samples=5)
    first = Backlog(sweep, tmp_path, [])
    for reward in (1.0, 2.0):
        trial = first.next()
        assert trial is not None and first.ended(trial, done(trial, reward))
    interrupted = first.next()
    second = Backlog(sweep, tmp_path, trials.read_trials(tmp_path))
    rest = drain(second)
    assert rest[0] == interrupted
    assert [trial.number for trial in rest] == [2, 3, 4]
    assert len({trial.values["lr"] for trial in trials.read_trials(tmp_path)}) == 5


def test_a_search_learns_across_its_interruptions(tmp_path: Path) -> None:
    sweep = make(tmp_path, space=LR, samples=40, search="optuna")
    for _ in range(4):  # the sweep is killed after each tenth trial, which has just ended and was told to nobody
        backlog = Backlog(sweep, tmp_path, trials.read_trials(tmp_path))
        for _ in range(9):
            trial = backlog.next()
            assert trial is not None
            backlog.ended(trial, done(trial, -((trial.values["lr"] - 0.3) ** 2)))
        last = backlog.next()
        assert last is not None
        trials.write_result(trials.directory(tmp_path, last), done(last, -((last.values["lr"] - 0.3) ** 2)))
    found = trials.read_trials(tmp_path)
    assert len(found) == 40
    best, _ = trials.best(found, sweep)
    assert abs(best.values["lr"] - 0.3) < 0.05
    late = [trial.values["lr"] for trial in found[20:]]
    assert sum(abs(lr - 0.3) < 0.15 for lr in late) > 10, "the second half does not search near the optimum"


def test_a_report_that_comes_after_the_end_counts(tmp_path: Path) -> None:
    """Three trials end before anybody has seen their reports: the fourth is compared with them all the same."""
    backlog = Backlog(make(tmp_path, space=LR, samples=4, scheduler="median"), tmp_path, [])
    for _ in range(3):
        trial = backlog.next()
        assert trial is not None
        backlog.ended(trial, Result(DONE, 0, {"reward": 9.0, "step": 1}))
    last = backlog.next()
    assert last is not None
    assert backlog.report(last, {"reward": 1.0, "step": 1})


def test_a_grid_is_walked_once(tmp_path: Path) -> None:
    space = (Parameter("a", "grid", (1, 2, 3)), Parameter("b", "choice", ("x", "y")))
    sweep = make(tmp_path, space=space, samples=6, search="grid")
    first = Backlog(sweep, tmp_path, [])
    half = [trial for trial in (first.next(), first.next(), first.next()) if trial]
    for trial in half:
        first.ended(trial, done(trial, 0))
    rest = drain(Backlog(sweep, tmp_path, trials.read_trials(tmp_path)))
    assert [dict(trial.values) for trial in half + rest] == sweep.grid()


def test_failures_have_another_chance(tmp_path: Path) -> None:
    backlog = Backlog(make(tmp_path, samples=1, max_failures=1), tmp_path, [])
    trial = backlog.next()
    assert trial is not None
    assert not backlog.last_chance(trial)
    assert not backlog.ended(trial, Result(FAILED, 1))
    assert backlog.next() == trial
    assert backlog.last_chance(trial)
    assert backlog.ended(trial, Result(FAILED, 1))
    assert not backlog.left


def test_losses_and_stops_are_no_failures(tmp_path: Path) -> None:
    backlog = Backlog(make(tmp_path, samples=1), tmp_path, [])
    trial = backlog.next()
    assert trial is not None
    for result in (None, Result(STOPPED, -15), None, None):
        assert not backlog.ended(trial, result)
        assert backlog.next() == trial
    assert backlog.ended(trial, None)  # it takes node after node along
    assert backlog.finished[0].state == FAILED


def test_a_poor_trial_is_pruned(tmp_path: Path) -> None:
    backlog = Backlog(make(tmp_path, space=LR, samples=8, scheduler="median"), tmp_path, [])
    for reward in (5.0, 6.0, 7.0):
        good = backlog.next()
        assert good is not None
        assert not any(backlog.report(good, {"step": step, "reward": reward}) for step in range(3))
        backlog.ended(good, done(good, reward))
    poor = backlog.next()
    assert poor is not None
    assert any(backlog.report(poor, {"step": step, "reward": 0.0}) for step in range(3))
    assert backlog.ended(poor, Result(PRUNED, -2, {"reward": 0.0}))
    assert trials.best(trials.read_trials(tmp_path), make(tmp_path, space=LR))[1] == 7.0


def test_the_best_is_the_best_mean(tmp_path: Path) -> None:
    sweep = make(tmp_path, space=LR, samples=2, repeat=2)
    backlog = Backlog(sweep, tmp_path, [])
    for trial, reward in zip(drain(backlog), (10.0, 0.0, 6.0, 6.0), strict=True):
        backlog.ended(trial, done(trial, reward))
    trial, mean = trials.best(trials.read_trials(tmp_path), sweep)
    assert (trial.sample, mean) == (1, 6.0)


def test_nothing_is_best_where_nothing_has_ended(tmp_path: Path) -> None:
    with pytest.raises(RayhpcError, match="no sample of s has ended with the metric reward"):
        trials.best([], make(tmp_path))


def test_a_reopened_trial_runs_again(tmp_path: Path) -> None:
    sweep = make(tmp_path, samples=2)
    backlog = Backlog(sweep, tmp_path, [])
    for trial in drain(backlog):
        backlog.ended(trial, Result(FAILED, 3))
    trials.reopen(tmp_path, trials.read_trials(tmp_path)[1])
    assert [trial.number for trial in drain(Backlog(sweep, tmp_path, trials.read_trials(tmp_path)))] == [1]
    assert json.loads((tmp_path / "trials/0001/result-1.json").read_text())["code"] == 3


def test_the_table(tmp_path: Path) -> None:
    backlog = Backlog(make(tmp_path, space=LR, samples=2), tmp_path, [])
    first, _ = drain(backlog)
    backlog.ended(first, done(first, 4.5))
    header, one, two = trials.table(trials.read_trials(tmp_path)).splitlines()
    assert header == "trial,name,state,seconds,lr,reward"
    assert one.startswith("0,sample 0,done,0.0,0.") and one.endswith(",4.5")
    assert two.startswith("1,sample 1,open,")


def test_one_process_runs_a_sweep_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "LOCK_SECONDS", 0.1)
    sweep = make(tmp_path)
    with trials.opened(tmp_path, sweep, resume=False) as folder:
        busy = pytest.raises(RayhpcError, match=rf"is run by pid {os.getpid()} on ")
        with busy, trials.opened(tmp_path, sweep, resume=True):
            pass
        with busy, trials.only_one(folder):  # as `rayhpc sweep retry`
            pass
        with pytest.raises(RayhpcError, match="there is a sweep"), trials.opened(tmp_path, sweep, resume=False):
            pass
    with trials.opened(tmp_path, sweep, resume=True) as again:
        assert again == folder
    assert trials.definition(folder) == sweep


def test_resume_begins_what_is_not_there(tmp_path: Path) -> None:
    with trials.opened(tmp_path, make(tmp_path), resume=True) as folder:
        assert folder == tmp_path / "s"


def test_a_sweep_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    begun = make(tmp_path, space=LR, samples=2)
    with trials.opened(tmp_path, begun, resume=False):
        pass
    with trials.opened(tmp_path, make(tmp_path, space=LR, samples=9), resume=True):
        pass
    other = make(tmp_path, space=(Parameter("lr", "uniform", (0.0, 2.0)),), repeat=2)
    with pytest.raises(RayhpcError, match="begun with another space and repeat"), trials.opened(tmp_path, other, True):
        pass


def test_what_a_running_trial_reported_last(tmp_path: Path) -> None:
    trial = drain(Backlog(make(tmp_path), tmp_path, []))[0]
    assert trials.reported(tmp_path, trial) == {}
    file = trials.directory(tmp_path, trial) / trials.METRICS
    for text, said in (
        ('{"step": 1, "reward": 2}\n{"step": 2, "reward": 3.5, "note": "x"}\n', {"step": 2, "reward": 3.5}),
        ('{"step": 1}\n{"st', {}),
        ("[1]\n", {}),
    ):
        file.write_text(text)
        assert trials.reported(tmp_path, trial) == said
