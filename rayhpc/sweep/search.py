"""Which values the next sample gets, and which trials are not worth going on with. The only owner of optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayhpc.errors import configuration
from rayhpc.sweep.plan import Sweep
from rayhpc.sweep.trials import Trial, means

JOURNAL = "search.log"
_SAMPLE = "rayhpc-sample"


class Search:
    """The samples of a sweep, kept in Optuna's journal so that a sweep that goes on knows what it has learned."""

    def __init__(self, sweep: Sweep, folder: Path, known: Sequence[Trial]) -> None:
        """Open or make the journal; raises RayhpcError without optuna. known: the trials that were planned before."""
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend, JournalStorage
        except ImportError as error:
            raise configuration(
                "a sweep over a space needs optuna", str(error), next_step="pip install 'rayhpc[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._optuna = sweep, optuna
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=sweep.name,
            direction="maximize" if sweep.mode == "max" else "minimize",
            sampler=_sampler(optuna, sweep, len(known)),
            pruner=_pruner(optuna, sweep),
            load_if_exists=True,
        )
        self._open: dict[int, Any] = {}
        self._steps: dict[int, set[int]] = {}
        self._settle(known)

    def _settle(self, known: Sequence[Trial]) -> None:
        """Bring the journal up to date with the trials' own records, which decide."""
        finished = means(known, self._sweep.metric, self._sweep.repeat)
        planned = {trial.sample for trial in known}
        for frozen in self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
            sample = frozen.user_attrs.get(_SAMPLE)
            if sample in finished:
                self._study.tell(frozen.number, finished[sample])
            elif sample in planned:
                self._open[sample] = self._optuna.trial.Trial(self._study, frozen._trial_id)
            else:  # the sweep ended between the question and the record
                self._study.tell(frozen.number, state=self._optuna.trial.TrialState.FAIL)

    def ask(self, sample: int) -> dict[str, Any]:
        """The values of the next sample."""
        if self._sweep.search == "grid":
            self._study.enqueue_trial(self._sweep.grid()[sample])
        trial = self._study.ask()
        values = {parameter.name: parameter.suggest(trial) for parameter in self._sweep.space}
        trial.set_user_attr(_SAMPLE, sample)
        self._open[sample] = trial
        return values

    def report(self, sample: int, report: Mapping[str, float]) -> bool:
        """Take in a report of a running trial; True where the scheduler would end the trial now."""
        trial = self._open.get(sample)
        if trial is None or self._sweep.scheduler == "none" or self._sweep.metric not in report:
            return False
        seen = self._steps.setdefault(sample, set())
        step = int(report.get("step", len(seen)))
        if step not in seen:
            seen.add(step)
            trial.report(report[self._sweep.metric], step)
        return bool(trial.should_prune())

    def tell(self, sample: int, value: float | None, pruned: bool = False) -> None:
        """A sample has ended, with its value, pruned, or without one."""
        trial = self._open.pop(sample, None)
        if trial is None:
            return
        states = self._optuna.trial.TrialState
        if value is not None:
            self._study.tell(trial, value)
        else:
            self._study.tell(trial, state=states.PRUNED if pruned else states.FAIL)


def _sampler(optuna: Any, sweep: Sweep, known: int) -> Any:
    seed = sweep.seed + known  # a sweep that goes on must not draw the same values again
    if sweep.search == "optuna":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(optuna: Any, sweep: Sweep) -> Any:
    if sweep.scheduler == "asha":
        return optuna.pruners.SuccessiveHalvingPruner()
    if sweep.scheduler == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=3)
    return optuna.pruners.NopPruner()
