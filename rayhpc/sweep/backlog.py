"""Which trial runs next, and what follows when one ends. The order of a sweep; what runs it is in engine.py."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rayhpc.sweep import trials
from rayhpc.sweep.plan import SEED, Sweep, arguments
from rayhpc.sweep.search import Search
from rayhpc.sweep.trials import Result, Trial

# A node that takes its trials along is no trial's fault; a trial that takes node after node along must end.
_LOSSES = 3


class Backlog:
    """The trials of a sweep: those that are recorded, those to run again, those still to be planned."""

    def __init__(self, sweep: Sweep, folder: Path, known: list[Trial]) -> None:
        self._sweep, self._folder = sweep, folder
        self._known = {trial.number: trial for trial in known}
        self._search = Search(sweep, folder, known) if sweep.space else None
        self._again = deque(trial for trial in known if trial.result is None)
        self._failures: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()

    @property
    def left(self) -> bool:
        """Whether a trial waits for its start."""
        return bool(self._again) or len(self._known) < self._sweep.trials

    @property
    def finished(self) -> list[Result]:
        """How the trials ended that have ended."""
        return [trial.result for trial in self._known.values() if trial.result]

    def next(self) -> Trial | None:
        """The trial to start now, recorded before it starts; None where none is left."""
        if self._again:
            return self._again.popleft()
        number = len(self._known)
        if number >= self._sweep.trials:
            return None
        trial = self._task(number) if self._sweep.tasks else self._sample(number)
        trials.plan_trial(self._folder, trial)
        self._known[number] = trial
        return trial

    def _task(self, number: int) -> Trial:
        name, command = list(self._sweep.tasks.items())[number]
        return Trial(number, name, number, {}, command)

    def _sample(self, number: int) -> Trial:
        sweep = self._sweep
        sample, place = divmod(number, sweep.repeat)
        if place:
            point = {name: value for name, value in self._known[number - 1].values.items() if name != SEED}
        else:
            point = self._search.ask(sample) if self._search else {}
        values = {**point, SEED: sweep.seed + place} if _varies_seed(sweep) else point
        return Trial(number, f"sample {sample}", sample, values, tuple(arguments(sweep.command, values)))

    def last_chance(self, trial: Trial) -> bool:
        """Whether a failure of this trial would be final."""
        return self._failures[trial.number] >= self._sweep.max_failures

    def report(self, trial: Trial, report: Mapping[str, float]) -> bool:
        """Take in a report; True where the trial is not worth going on with."""
        return self._search is not None and self._search.report(trial.sample, report)

    def ended(self, trial: Trial, result: Result | None) -> bool:
        """Take in an end, None for a trial that was lost with its node; True if the end is final."""
        if result is None:
            self._losses[trial.number] += 1
            if self._losses[trial.number] > _LOSSES:
                return self.ended(trial, Result(trials.FAILED, 1, reason="lost with its node, again and again"))
        if result is None or result.state == trials.STOPPED or self._fails_again(trial, result):
            self._again.append(trial)
            return False
        trials.write_result(trials.directory(self._folder, trial), result)
        self._known[trial.number] = replace(trial, result=result)
        if "step" in result.metrics:  # else nobody knows whether this report was seen before
            self.report(trial, result.metrics)
        self._tell_search(trial.sample)
        return True

    def _fails_again(self, trial: Trial, result: Result) -> bool:
        """Count a failure; True if the trial has another chance."""
        if result.state != trials.FAILED or self.last_chance(trial):
            return False
        self._failures[trial.number] += 1
        return True

    def _tell_search(self, sample: int) -> None:
        """Tell the search of a sample whose trials have all ended."""
        own = [trial for trial in self._known.values() if trial.sample == sample]
        if self._search is None or len(own) < self._sweep.repeat or not all(trial.result for trial in own):
            return
        value = trials.means(own, self._sweep.metric, self._sweep.repeat).get(sample)
        pruned = any(trial.result and trial.result.state == trials.PRUNED for trial in own)
        self._search.tell(sample, value, pruned)


def _varies_seed(sweep: Sweep) -> bool:
    return sweep.repeat > 1 or any(f"{{{SEED}}}" in word for word in sweep.command)
