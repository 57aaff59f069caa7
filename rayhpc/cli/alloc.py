"""`rayhpc alloc …`: allocations from the login node, from the submission to the exit code."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rayhpc.batch import allocations, jobscript, logs, status
from rayhpc.batch.cancel import cancel_allocations
from rayhpc.batch.status import Seen
from rayhpc.batch.wait import wait_for_allocations
from rayhpc.cli import growth
from rayhpc.cli.base import (
    JSON_OPTION,
    RUN_DIR,
    Told,
    clipped,
    json_text,
    print_table,
    printable,
    tell,
)
from rayhpc.cli.sites import list_sites
from rayhpc.cli.submit import submit, submit_planned
from rayhpc.errors import RayhpcError
from rayhpc.records import bad_hosts
from rayhpc.records.runs import Run
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import Request
from rayhpc.sites import load as sites
from rayhpc.sites.script import edited

_SHOWN_COMMAND = 60


_IDS = click.argument("ids", nargs=-1)
_ID = click.argument("job_id", required=False, metavar="[ID]")


@click.group("alloc", cls=Told, context_settings={"max_content_width": 100})
def alloc() -> None:
    """Submit a driver with a jobscript, and follow the job. An ID is the scheduler's; without one: the newest job."""


alloc.add_command(submit)
alloc.add_command(list_sites)


def _grow(run: str, scheduler: str, script: str, dry_run: bool, run_dir: str, **values: Any) -> None:
    submission = growth.planned(run, scheduler, script, run_dir, Request(**values))
    submit_planned(submission, submission.command, dry_run)


alloc.add_command(RUN_DIR(click.Command(
    "grow", callback=_grow, params=growth.grow_parameters(),
    help="Submit a job whose nodes join cluster RUN and leave it in order before the job's end.",
)))  # fmt: skip
alloc.add_command(growth.shrink)


@alloc.command("list")
@RUN_DIR
@JSON_OPTION
def list_allocations(run_dir: str, as_json: bool) -> None:
    """All allocations and their states, asked for at once."""
    found = allocations.every(run_dir)
    seen, faults = status.current(found)
    if as_json:
        click.echo(json_text([_entry(entry) for entry in seen]))
    else:
        print_table(_COLUMNS, [_row(entry) for entry in seen])
    for fault in faults:
        tell(fault.text())
    sys.exit(int(faults[0].code) if faults else 0)


def _entry(seen: Seen) -> dict[str, Any]:
    return {**dataclasses.asdict(seen.allocation), "state": seen.state, "output": str(seen.allocation.output)}


_COLUMNS = ("ID", "SCHEDULER", "STATE", "CODE", "SUBMITTED", "COMMAND")


def _row(seen: Seen) -> tuple[str, ...]:
    allocation, state = seen.allocation, seen.state
    code = "" if state.exit_code is None else str(state.exit_code)
    shown = clipped(shlex.join(allocation.command), _SHOWN_COMMAND)
    name = state.state.name + (f" ({state.word})" if state.state.name == "UNKNOWN" and state.word else "")
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(allocation.submitted_at))
    return (allocation.job_id, allocation.scheduler, name, code, at, printable(shown))


@alloc.command()
@_ID
@RUN_DIR
@JSON_OPTION
def show(job_id: str | None, run_dir: str, as_json: bool) -> None:
    """One allocation: its state, command, files and runs."""
    (allocation,) = allocations.find(run_dir, [job_id] if job_id else [])
    (seen,), faults = status.current([allocation])
    runs = allocations.runs(seen.allocation)
    if as_json:
        click.echo(json_text({**_entry(seen), "runs": runs}))
    else:
        _print_lines(seen, runs)
    if faults:
        raise RayhpcError(faults[0])


def _print_lines(seen: Seen, runs: Sequence[Run]) -> None:
    allocation = seen.allocation
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(allocation.submitted_at))
    lines = [
        ("job", f"{allocation.job_id} ({allocation.scheduler})"),
        ("state", seen.words),
        *((f"task {task}", status.worded(state)) for task, state in seen.state.tasks),
        *(("before", job_id) for job_id in allocation.earlier),
        ("submitted", f"{at} from {allocation.submitted_from}"),
        ("driver", shlex.join(allocation.command)),
        ("by", shlex.join(allocation.submit)),
        ("script", allocation.script),
        ("output", str(allocation.output)),
        *(("run", f"{run.directory}  {run.words}") for run in runs),
    ]
    for name, text in lines:
        click.echo(f"{name:<10} {text.encode(errors='replace').decode()}")


@alloc.command("cancel")
@click.argument("ids", nargs=-1, required=True)
@RUN_DIR
def cancel_jobs(ids: tuple[str, ...], run_dir: str) -> None:
    """End jobs: each driver gets SIGTERM, and time to end (--stop-timeout)."""
    seen, _ = status.current(allocations.find(run_dir, ids))
    cancel_allocations([entry.allocation for entry in seen], tell)


@alloc.command("logs")
@_ID
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@RUN_DIR
def print_logs(job_id: str | None, follow: bool, run_dir: str) -> None:
    """What a job has written."""
    (allocation,) = allocations.find(run_dir, [job_id] if job_id else [])
    sink = sys.stdout.buffer
    if follow:
        seen = logs.follow(allocation, sink, tell)
        tell(f"job {seen.allocation.job_id} {seen.words}")
    else:
        logs.show(allocation, sink)


@alloc.command("wait")
@_IDS
@RUN_DIR
def wait_for_jobs(ids: tuple[str, ...], run_dir: str) -> None:
    """Wait for jobs to end; the exit code is theirs, of several the first that is not 0."""
    sys.exit(wait_for_allocations(allocations.find(run_dir, ids), tell))


@alloc.command("bad")
@click.option("--forget", multiple=True, metavar="HOST", help="Take it off the list. Repeatable.")
@click.option("--cluster", default="", metavar="NAME", help="Forget it there alone, as slurm/alpha.")
@JSON_OPTION
def list_bad_hosts(forget: tuple[str, ...], cluster: str, as_json: bool) -> None:
    """Hosts that were bad for your runs, with the last reason; alloc submit --exclude-bad leaves them out."""
    if forget:
        gone = bad_hosts.forget(cluster, forget)
        for host in forget:
            places = [entry.cluster for entry in gone if entry.host == host]
            tell(f"{host} is off the list of {', '.join(places)}" if places else f"{host} was not on the list")
        return
    found = [entry for entry in bad_hosts.every() if cluster in ("", entry.cluster)]
    if as_json:
        click.echo(json_text([dataclasses.asdict(entry) for entry in found]))
        return
    dates = [time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.at)) for entry in found]
    rows = [(e.cluster, e.host, date, printable(e.reason)) for e, date in zip(found, dates, strict=True)]
    print_table(("CLUSTER", "HOST", "DATE", "REASON"), rows)


def _init_choices() -> list[str]:
    return [name for name, system in SYSTEMS.items() if system.script]


@alloc.command("init")
@click.argument("scheduler", type=click.Choice(_init_choices()), required=False)
@click.option("--site", "site_name", default="", metavar="NAME", help="With the facts of a machine.")
@click.option("--to", default="", metavar="FILE", help="Another name than the shipped script's.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init_script(scheduler: str | None, site_name: str, to: str, force: bool) -> None:
    """Copy a jobscript to edit: modules, environment, account of this site."""
    if bool(scheduler) == bool(site_name):
        raise click.UsageError(f"name a scheduler ({', '.join(_init_choices())}), or a machine: --site NAME")
    site = sites.find(site_name, os.environ) if site_name else None
    system = SYSTEMS[site.scheduler if site else str(scheduler)]
    source = jobscript.shipped(system.script)
    target = Path(to or (f"{site.name}{source.suffix}" if site else source.name))
    text = jobscript.read(source)
    jobscript.save(target, edited(site, text) if site else text, fresh=not force)
    click.echo(target)
    tell(f"  edit the site facts at its top, then: rayhpc alloc submit {system.name} --script {target} -- DRIVER …")
