"""A sweep on a cluster: trials start as there is room, are watched, and end one by one."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayhpc import driver_api
from rayhpc.errors import counted
from rayhpc.sweep import board, placement, trials
from rayhpc.sweep.backlog import Backlog
from rayhpc.sweep.plan import Sweep
from rayhpc.sweep.screen import Row, Screen, given
from rayhpc.sweep.trial_process import Program, run
from rayhpc.sweep.trials import Result, Trial

# How often ends and reports are looked for.
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 15.0
# The driver of a run is ended six seconds before the job; trials climb a ladder of five.
_LAST_SECONDS = 15.0
INTERRUPTED = 75
_ORDERS = {signal.SIGUSR1: board.WARN, signal.SIGINT: board.STOP, signal.SIGTERM: board.STOP}


@dataclass(eq=False)
class Running:
    """A trial under way. key: the trial and its attempt; refs: its processes; ending: it was told to end.

    last: what it has reported, the newest value of each name.
    """

    trial: Trial
    key: str
    group: placement.Group
    refs: list[Any] = field(default_factory=list)
    ending: bool = False
    last: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.time)

    def row(self) -> Row:
        """As the user sees it."""
        return Row(self.key, given(dict(self.trial.values)) or self.trial.name, self.last, self.began)


class Engine:
    """Runs the trials of a backlog until none is left, or a signal asks for the end."""

    def __init__(self, sweep: Sweep, folder: Path, backlog: Backlog, screen: Screen) -> None:
        import ray

        self._ray, self._sweep, self._folder = ray, sweep, folder
        self._backlog, self._screen = backlog, screen
        self._attempts: Counter[int] = Counter()
        self._running: dict[str, Running] = {}
        self._next_group: placement.Group | None = None
        self._wishes: list[str] = []
        self._board = board.start(ray)
        self._task = ray.remote(run)
        self._room = placement.room(sweep, placement.nodes(ray))

    def run(self) -> None:
        """Run all that is left. SIGUSR1 is passed to the trials and starts no more; INT and TERM end them."""
        for number in _ORDERS:
            signal.signal(number, lambda number, _: self._wishes.append(_ORDERS[signal.Signals(number)]))
        told = 0
        try:
            while self._running or (self._backlog.left and not self._wishes):
                if not self._wishes:
                    self._start_what_fits()
                self._look_at_clock()
                for wish in self._wishes[told:]:
                    told += 1
                    self._pass_on(wish)
                self._take_reports()
                self._screen.running([running.row() for running in self._running.values()])
                self._take_ends()
        finally:
            self._close()

    def _look_at_clock(self) -> None:
        """End the trials in time where the job's end is known: so that their state is saved, and 75 is the answer."""
        if self._wishes and driver_api.time_left() < _LAST_SECONDS and board.STOP not in self._wishes:
            self._wishes.append(board.STOP)

    def _start_what_fits(self) -> None:
        """Start trials while there is room: as late as possible, so that a search knows as much as it can."""
        each = self._sweep.trials if self._sweep.concurrent else 1
        while self._backlog.left and len(self._running) < self._room * each:
            self._next_group = self._next_group or placement.group(self._sweep)
            if not self._next_group.ready():
                return
            group, self._next_group = self._next_group, None
            for place in range(each):
                trial = self._backlog.next()
                if trial is not None:
                    self._start(trial, group, place * self._sweep.processes)

    def _start(self, trial: Trial, group: placement.Group, first: int) -> None:
        self._attempts[trial.number] += 1
        attempt = self._attempts[trial.number]
        running = Running(trial, f"{trial.key}-{attempt}", group)
        program = Program(
            trial=running.key,
            argv=trial.command,
            place=str(trials.directory(self._folder, trial).absolute()),
            cwd=self._sweep.directory,
            attempt=attempt,
            processes=self._sweep.processes,
            stall=self._sweep.stall,
            reader=self._sweep.reader,
            final=self._backlog.last_chance(trial),
            environment={**self._own_variables(), **self._sweep.environment},
        )
        pip = {"pip": list(self._sweep.pip)} if self._sweep.pip else None
        for rank in range(self._sweep.processes):
            options = {**group.options(self._sweep.resources, first + rank), "runtime_env": pip}
            running.refs.append(self._task.options(**options).remote(program, rank, self._board))
        self._running[running.key] = running

    def _own_variables(self) -> dict[str, str]:
        """What a trial is told of its place: the cluster, and what it holds of it."""
        asked = self._sweep.resources
        return {
            "RAY_ADDRESS": self._ray.get_runtime_context().gcs_address,
            "RAYHPC_TRIAL_CPUS": f"{asked.cpus:g}",
            "RAYHPC_TRIAL_GPUS": f"{asked.gpus:g}",
        }

    def _pass_on(self, wish: str) -> None:
        what = "SIGUSR1 passed on to" if wish == board.WARN else "ending"
        self._screen.line(f"{what} {counted(len(self._running), 'trial')}; no more are started")
        for running in self._running.values():
            self._order(running, wish)

    def _order(self, running: Running, order: str) -> None:
        running.ending = running.ending or order != board.WARN
        self._board.give.remote(running.key, order, self._sweep.processes)

    def _take_reports(self) -> None:
        for key, reports in self._ray.get(self._board.take.remote()):
            running = self._running.get(key)
            if running is None:
                continue
            for report in reports:
                running.last.update(report)
            verdicts = [self._backlog.report(running.trial, report) for report in reports]
            if any(verdicts) and not running.ending:
                self._order(running, trials.PRUNED)

    def _take_ends(self) -> None:
        owners = {ref: running for running in self._running.values() for ref in running.refs}
        if not owners:
            return
        self._ray.wait(list(owners), timeout=_LOOK_SECONDS)  # one that has ended leaves room for the next
        ready, _ = self._ray.wait(list(owners), num_returns=len(owners), timeout=0)
        if ready:
            self._take_reports()  # what a trial has reported before its end counts for the others
        for running in dict.fromkeys(owners[ref] for ref in ready):
            done = [ref for ref in running.refs if ref in ready]
            results = [self._result(ref) for ref in done]
            if len(done) == len(running.refs):
                self._end(running, _whole(results))
            elif not running.ending and any(result is None or result.state != trials.DONE for result in results):
                self._order(running, board.STOP)  # one process of the trial has failed: the others wait in vain

    def _result(self, ref: Any) -> Result | None:
        """How a process ended; None if it was lost with its node. Raises RayhpcError for one that cannot begin."""
        try:
            result: Result = self._ray.get(ref)
        except Exception as error:  # Ray's errors, and what a process of ours raises on its host
            if not placement.lost(error):
                raise placement.refused(error) from error
            return None
        return result

    def _end(self, running: Running, result: Result | None) -> None:
        del self._running[running.key]
        if not any(other.group is running.group for other in self._running.values()):
            running.group.release()
        final = self._backlog.ended(running.trial, result)
        count = f"{len(self._backlog.finished)}/{self._sweep.trials}"
        again = "" if final or self._wishes else ", runs again"
        told = describe(running.trial, result, self._sweep.metric)
        self._screen.line(f"{count}  trial {running.trial.key} {told}{again}")

    def _close(self) -> None:
        """End what still runs after a fault of ours, and the board."""
        for running in self._running.values():
            self._order(running, board.STOP)
        refs = [ref for running in self._running.values() for ref in running.refs]
        if refs:
            self._ray.wait(refs, num_returns=len(refs), timeout=_STOP_SECONDS)
        if self._next_group is not None:
            self._next_group.release()
        self._ray.kill(self._board)


def _whole(results: list[Result | None]) -> Result | None:
    """How a trial of several processes ended: as the first that failed, else as the first."""
    if None in results:
        return None
    found = [result for result in results if result is not None]
    return next((result for result in found if result.state == trials.FAILED), found[0])


def describe(trial: Trial, result: Result | None, metric: str) -> str:
    """How a trial ended, in a line."""
    if result is None:
        return "lost with its node"
    value = f"  {metric} {result.metrics[metric]:g}" if metric in result.metrics else ""
    what = given(dict(trial.values)) or trial.name
    problem = f"  ({result.problems[0]})" if result.problems else ""
    return f"{ending(result)}{value}  {what}{problem}"


def ending(result: Result) -> str:
    """How a trial ended, in a word or a reason."""
    if result.state != trials.FAILED:
        return result.state
    return result.reason or (f"signal {-result.code}" if result.code < 0 else f"exit code {result.code}")


def run_sweep(sweep: Sweep, folder: Path, screen: Screen) -> int:
    """Run what is left of a sweep on the cluster of RAY_ADDRESS, else on this host. Raises RayhpcError.

    The exit code: 0; 1 if a trial failed; 75 if some are still to be run.
    """
    import ray

    began = time.monotonic()
    # Ray uploads directories for a whole job, not for one of its tasks.
    modules = {"py_modules": list(sweep.py_modules)} if sweep.py_modules else None
    ray.init(log_to_driver=False, logging_level="ERROR", runtime_env=modules)
    try:
        placement.check(sweep, placement.nodes(ray))
        backlog = Backlog(sweep, folder, trials.read_trials(folder))
        Engine(sweep, folder, backlog, screen).run()
    finally:
        ray.shutdown()
    (folder / trials.TABLE).write_text(trials.table(trials.read_trials(folder)), encoding="utf-8")
    screen.line(f"{len(backlog.finished)} of {counted(sweep.trials, 'trial')} after {time.monotonic() - began:.0f} s")
    if backlog.left:
        return INTERRUPTED
    return int(any(result.state == trials.FAILED for result in backlog.finished))
