"""`rayhpc runs …`: what the run directory knows of the runs of the bootstrap."""

from __future__ import annotations

import dataclasses
import shlex
import socket
from pathlib import Path

import click

from rayhpc.cli.base import JSON_OPTION, RUN_DIR, Told, clipped, json_text, print_table, printable, save, tell
from rayhpc.cli.metrics import run_metrics
from rayhpc.cli.run_lines import run_lines
from rayhpc.errors import counted
from rayhpc.records import plots, timeline
from rayhpc.records import runs as recorded
from rayhpc.records.runs import Run

_PICTURE = "timeline.png"
_COLUMNS = ("RUN", "JOB", "NODES", "CODE", "CAUSE", "COMMAND")
_SHOWN_COMMAND = 60
_RUN = click.argument("run", required=False, default="", metavar="[RUN]")


@click.group("runs", cls=Told, context_settings={"max_content_width": 100})
def runs() -> None:
    """What has run: the records of the bootstrap. RUN is a run's directory or its id; without one: the newest."""


@runs.command("list")
@RUN_DIR
@JSON_OPTION
def list_runs(run_dir: str, as_json: bool) -> None:
    """All runs, the oldest first."""
    found = recorded.every(run_dir)
    if as_json:
        click.echo(json_text([{"id": run.id, **dataclasses.asdict(run)} for run in found]))
    else:
        print_table(_COLUMNS, [_row(run) for run in found])


def _row(run: Run) -> tuple[str, ...]:
    code = "" if run.code is None else str(run.code)
    shown = clipped(printable(shlex.join(run.command or ())), _SHOWN_COMMAND)
    return (run.id, run.batch_job_id, str(run.nodes), code, run.words, shown)


@runs.command("show")
@_RUN
@RUN_DIR
@JSON_OPTION
def show_run(run: str, run_dir: str, as_json: bool) -> None:
    """One run: how it ended, where it ran, its files, and what to do next."""
    meant = recorded.find(run_dir, run)
    if as_json:
        spec, outcome = recorded.details(meant)
        click.echo(json_text({"id": meant.id, **dataclasses.asdict(meant), "cluster": spec, "outcome": outcome}))
        return
    for name, text in run_lines(meant):
        click.echo(f"{name:<10} {printable(text)}")


runs.add_command(run_metrics)


@runs.command("plot")
@_RUN
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Default: timeline.png in the run.")
@RUN_DIR
def plot_run(run: str, output: Path | None, run_dir: str) -> None:
    """Draw what each rank did when, from events.jsonl."""
    meant = recorded.find(run_dir, run)
    file = output or Path(meant.directory, _PICTURE)
    save(file, picture(meant))
    click.echo(file)
    tell(f"  from elsewhere: scp {shlex.quote(f'{socket.gethostname()}:{file.absolute()}')} .")


def picture(run: Run) -> bytes:
    """The PNG of a run; raises RayhpcError where there is nothing to draw, or nothing to draw with."""
    events = recorded.events(run)
    hosts = {int(event["rank"]): str(event["host"]) for event in events}
    return plots.draw_timeline(timeline.spans(events), hosts, f"run {run.id}, {counted(run.nodes, 'node')}")
