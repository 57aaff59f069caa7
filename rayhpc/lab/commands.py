"""`rayhpc lab …`: the command line. What needs Ray or Hydra is imported when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from rayhpc.errors import RayhpcError
from rayhpc.rllib.errors import EXIT_DONE, EXIT_USAGE, UsageError

if TYPE_CHECKING:
    from rayhpc.lab.compose import Source
    from rayhpc.rllib.signals import Signals
    from rayhpc.rllib.training import Training

NEEDED = ("hydra", "ray", "torch", "gymnasium", "PIL", "yaml")
SWEEPS = "rayhpc-sweeps"


@contextmanager
def usage() -> Iterator[None]:
    """A wrong configuration or a missing package is a sentence and exit code 2; a fault of the sweep has its own."""
    try:
        yield
    except RayhpcError as error:
        click.echo(error.fault.text(), err=True)
        sys.exit(int(error.fault.code))
    except UsageError as problem:
        _refuse(problem)
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] not in NEEDED:
            raise
        _refuse(UsageError(f"{problem.name} is not installed: pip install 'rayhpc[lab]'"))


def _refuse(problem: UsageError) -> NoReturn:
    click.echo(f"lab: {problem}", err=True)
    sys.exit(EXIT_USAGE)


def completed(context: click.Context, _: click.Parameter, word: str) -> list[str]:
    """What a word may become, for the shell's tab: a key with its =, or its values."""
    from rayhpc.lab.complete import candidates

    return candidates(context.params.get("overrides") or (), word)


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Hydra's own options, and its overrides."""
    for wrap in (
        click.argument("overrides", nargs=-1, shell_complete=completed),
        click.option("--config-name", "-cn", metavar="NAME", help="A file in the directory, without .yaml."),
        click.option("--config-dir", "-cd", metavar="DIR", help="A directory with your files and groups."),
    ):
        command = wrap(command)
    return command


@click.group("lab", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def lab() -> None:
    """Train, tune and view with RLlib from a configuration: algorithm, environment, hyperparameters."""


@lab.command()
@configured
@click.option("--multirun", "-m", is_flag=True, help="One training after the other: -m training.lr=1e-4,3e-4.")
def train(overrides: tuple[str, ...], config_dir: str | None, config_name: str | None, multirun: bool) -> None:
    """Train: rayhpc lab train algo=ppo env=CartPole-v1 training.lr=3e-4."""
    from rayhpc.lab.objects import importable_from
    from rayhpc.rllib.driver import leave

    importable_from(Path.cwd())
    with usage():
        sources = _sources(overrides, config_dir, config_name, multirun)
    leave(max((_train(each) for each in sources), default=EXIT_DONE))


def _sources(overrides: tuple[str, ...], config_dir: str | None, config_name: str | None, each: bool) -> list[Source]:
    from rayhpc.lab.compose import Source, sweep

    source = Source(overrides, config_dir, config_name)
    return sweep(source) if each else [source]


def check_line(overrides: tuple[str, ...], config_dir: str | None, config_name: str | None, multirun: bool) -> None:
    """End with 2 where the line of a job would; a login node without Ray and Hydra leaves it to the job."""
    from importlib.util import find_spec

    if all(find_spec(name) for name in NEEDED):
        from rayhpc.lab.settings import read

        with usage():
            for source in _sources(overrides, config_dir, config_name, multirun):
                read(source)


def _train(source: Source) -> int:
    from rayhpc.rllib.driver import drive

    with usage():
        return drive("lab", partial(_ready, source))


def _ready(source: Source, signals: Signals) -> Training:
    from rayhpc.lab.settings import read
    from rayhpc.lab.train import ready

    return ready(read(source), signals)


@lab.command()
@configured
@click.option("--resume", is_flag=True, help="Go on with the search if there is one: run what has not ended yet.")
@click.option(
    "--dir", "parent", default=SWEEPS, envvar="RAYHPC_SWEEP_DIR", show_default=True, metavar="DIR",
    help="Where searches are recorded: a directory that all hosts share.", type=click.Path(path_type=Path),
)  # fmt: skip
def tune(
    overrides: tuple[str, ...], config_dir: str | None, config_name: str | None, resume: bool, parent: Path
) -> None:
    """Search: many trainings side by side, and the best one as a command line. `tunables` say what varies.

    \b
      rayhpc lab tune tunables.training.lr='{type: loguniform, values: [1e-5, 1e-2]}' tune.samples=20

    Ends with 0; 1 if a trial failed; 75 if some are still to be run. `rayhpc sweep show` lists the trials.
    """
    from rayhpc.lab.objects import importable_from

    importable_from(Path.cwd())
    with usage():
        from rayhpc.lab.compose import Source
        from rayhpc.lab.tune import plan, run

        sys.exit(run.tune(plan.sweep_of(Source(overrides, config_dir, config_name)), parent, resume))


@lab.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--episodes", default=3, show_default=True, metavar="N", type=click.IntRange(1), help="Whole episodes.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of the environment.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="A .gif or .mp4; none: only the figures.")
@click.option("--explore", is_flag=True, help="Draw actions as in training; without it the likeliest is taken.")
def view(checkpoint: Path, episodes: int, seed: int, out: Path | None, explore: bool) -> None:
    """Show what was learned: run the policy of CHECKPOINT, film it, print what it reached.

    CHECKPOINT may be the directory of the results: then the newest one in it.
    """
    with usage():
        from rayhpc.lab.view import figures, film, found, writer_for

        write = writer_for(out) if out is not None else None
        seen = film(found(checkpoint), episodes, seed, explore=explore, render=out is not None)
        click.echo(figures(seen))
        if out is not None and write is not None:
            write(seen, out)
            click.echo(f"{len(seen.frames)} frames in {out}")


@lab.command()
@configured
@click.option("--diff", is_flag=True, help="Against RLlib's defaults.")
def config(overrides: tuple[str, ...], config_dir: str | None, config_name: str | None, diff: bool) -> None:
    """Check a configuration and print it.

    \b
      rayhpc lab config training.lr=3e-4         what is trained with, in YAML
      rayhpc lab config --diff training.lr=3e-4  what differs from RLlib's defaults
      rayhpc lab config explain training.lr      what a key wants; of a group: its keys
      rayhpc lab config reference                all keys of all groups, as a page
    """
    with usage():
        from rayhpc.lab import explain
        from rayhpc.lab.compose import Source
        from rayhpc.lab.settings import read

        if overrides[:1] == ("explain",):
            keys = [word for word in overrides[1:] if "=" not in word]
            algo = dict(word.split("=", 1) for word in overrides if "=" in word).get("algo", "PPO")
            told = "\n".join(explain.explained(key, algo) for key in keys)
            click.echo(told or "\n".join([*explain.SINGLE, *explain.GROUPS, ""]), nl=False)
        elif overrides == ("reference",):
            click.echo(explain.reference(), nl=False)
        else:
            settings = read(Source(overrides, config_dir, config_name))
            click.echo("".join(f"# {warning}\n" for warning in settings.warnings), nl=False)
            click.echo(explain.difference(settings) if diff else explain.as_yaml(settings), nl=False)


@lab.command()
def algos() -> None:
    """The algorithms of the installed Ray."""
    with usage():
        from rayhpc.lab.algorithms import names

        click.echo("\n".join(names()))


@lab.command()
def envs() -> None:
    """The environments that Gymnasium knows here.

    Others can be trained on as module:Class, FILE.py or pettingzoo.MODULE.
    """
    with usage():
        from rayhpc.lab.environments import ids

        click.echo("\n".join(ids()))
