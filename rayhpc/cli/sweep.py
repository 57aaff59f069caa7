"""`rayhpc sweep …`: many trials of one program over a cluster, and what became of them."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from pathlib import Path

import click

from rayhpc.cli.base import JSON_OPTION, Told, json_text, print_table, tell
from rayhpc.errors import counted
from rayhpc.sweep import plots, trials
from rayhpc.sweep.load import load
from rayhpc.sweep.plan import text, values_as_words
from rayhpc.sweep.screen import Screen
from rayhpc.sweep.trials import Trial

_COLUMNS = ("TRIAL", "STATE", "SECONDS", "METRIC", "VALUES", "HOW IT ENDED")
_DIR = click.option(
    "--dir", "parent", default=trials.FOLDER, envvar="RAYHPC_SWEEP_DIR", show_default=True, metavar="DIR",
    help="Where sweeps are recorded: a directory that all hosts share.",
)  # fmt: skip
_NAME = click.argument("name", required=False, default="", metavar="[SWEEP]")


@click.group("sweep", cls=Told, context_settings={"max_content_width": 100})
def sweep() -> None:
    """Run many trials of any program over a cluster. SWEEP is a sweep's name; without one: the newest."""


@sweep.command("run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="SWEEP.YAML")
@click.option("--resume", is_flag=True, help="Go on with the sweep if there is one: run what has not ended yet.")
@_DIR
def run_sweep(file: Path, resume: bool, parent: str) -> None:
    """Run the trials of a file on the cluster of RAY_ADDRESS, else on this host alone.

    Ends with 0; 1 if a trial failed; 75 if some are still to be run. As a driver of a run:

    \b
      mpirun -np 4 python -m rayhpc.start -m rayhpc sweep run sweep.yaml
    """
    from rayhpc.sweep import engine

    wanted = load(file, os.environ)
    with trials.opened(Path(parent), wanted, resume) as folder, Screen(wanted) as screen:
        screen.line(f"{folder}: {counted(wanted.trials, 'trial')}")
        sys.exit(engine.run_sweep(wanted, folder, screen))


@sweep.command("list")
@_DIR
@JSON_OPTION
def list_sweeps(parent: str, as_json: bool) -> None:
    """All sweeps, the newest last."""
    rows = [(folder.name, dict(_states(trials.read_trials(folder)))) for folder in trials.every(parent)]
    if as_json:
        click.echo(json_text([{"name": name, **states} for name, states in rows]))
    else:
        print_table(("SWEEP", "TRIALS"), [(name, _counted(states)) for name, states in rows])


def _states(found: list[Trial]) -> Counter[str]:
    return Counter(trial.result.state if trial.result else "open" for trial in found)


def _counted(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


@sweep.command("show")
@_NAME
@_DIR
@JSON_OPTION
def show_sweep(name: str, parent: str, as_json: bool) -> None:
    """All trials of a sweep, each with its values and its end."""
    folder = trials.find(parent, name)
    found = trials.read_trials(folder)
    if as_json:
        click.echo(json_text(found))
        return
    metric = trials.definition(folder).metric
    print_table(_COLUMNS, [_row(folder, trial, metric) for trial in found])
    tell(f"  {_counted(_states(found))}; output: {folder}/trials/NUMBER/{trials.OUTPUT}")


def _row(folder: Path, trial: Trial, metric: str) -> tuple[str, ...]:
    values = " ".join(f"{name}={text(value)}" for name, value in trial.values.items()) or trial.name
    result = trial.result
    if result is None:
        seen = trials.reported(folder, trial)
        step = f"at step {seen['step']:g}" if "step" in seen else ""
        return (trial.key, "open", "", f"{seen[metric]:g}" if metric in seen else "", values, step)
    number = f"{result.metrics[metric]:g}" if metric in result.metrics else ""
    end = result.reason or ("" if result.code == 0 else f"exit code {result.code}")
    return (trial.key, result.state, f"{result.seconds:.0f}", number, values, end)


@sweep.command("best")
@_NAME
@click.option("--as-args", is_flag=True, help="Print name=value of each alone: for a command line, or for xargs.")
@_DIR
@JSON_OPTION
def best_of(name: str, as_args: bool, parent: str, as_json: bool) -> None:
    """The sample with the best metric, the mean over its repeats."""
    folder = trials.find(parent, name)
    defined = trials.definition(folder)
    trial, mean = trials.best(trials.read_trials(folder), defined)
    values = {key: value for key, value in trial.values.items() if key != "seed" or defined.repeat == 1}
    if as_args:
        own = trial.command[defined.program :] if defined.program else values_as_words(defined.command, values)
        click.echo(shlex.join(own))
    elif as_json:
        click.echo(json_text({"trial": trial.number, defined.metric: mean, "values": values}))
    else:
        click.echo(f"{defined.metric} {mean:g}  {trial.name}: {shlex.join(trial.command)}")


@sweep.command("retry")
@_NAME
@click.argument("numbers", nargs=-1, type=int, metavar="[TRIAL]...")
@_DIR
def retry(name: str, numbers: tuple[int, ...], parent: str) -> None:
    """Let failed trials, or those that are named, run again at the next `run --resume`."""
    folder = trials.find(parent, name)
    with trials.only_one(folder):
        chosen = [
            trial
            for trial in trials.read_trials(folder)
            if trial.result and (trial.number in numbers or (not numbers and trial.result.state == trials.FAILED))
        ]
        for trial in chosen:
            trials.reopen(folder, trial)
    click.echo(f"{len(chosen)} trials run again: rayhpc sweep run SWEEP.YAML --resume")


@sweep.command("plot")
@_NAME
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Default: the sweep's.")
@_DIR
def plot(name: str, output: Path | None, parent: str) -> None:
    """Draw the sweep: best so far, parallel coordinates, importance of the parameters."""
    folder = trials.find(parent, name)
    for file in plots.draw(trials.definition(folder), trials.read_trials(folder), output or folder):
        click.echo(file)


