"""`rayhpc alloc grow` and `shrink`: jobs that bring nodes into a running cluster, and their end."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rayhpc import paths
from rayhpc.batch import allocations, status
from rayhpc.batch.allocations import Allocation
from rayhpc.batch.cancel import cancel_allocations
from rayhpc.batch.status import Seen
from rayhpc.batch.submit import Submission, plan_submission
from rayhpc.cli.base import RUN_DIR, tell
from rayhpc.errors import configuration
from rayhpc.launch import command_line
from rayhpc.records import registry
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import Request

JOIN = "--join"


def planned(run: str, scheduler: str, script: str, run_dir: str, request: Request) -> Submission:
    """The submission of a job whose nodes join a cluster; raises RayhpcError where that is none of a scheduler's."""
    entry = registry.find(run)
    name = scheduler or entry.scheduler
    if name not in SYSTEMS:
        raise configuration(
            f"no scheduler that rayhpc knows runs the cluster {entry.id}",
            next_step=f"name one with --scheduler; or on the new hosts: python -m rayhpc.start {JOIN} {entry.id}",
        )
    return plan_submission(SYSTEMS[name], request, (JOIN, entry.id), run_dir, script, os.environ)


def joined(run: str, run_dir: str) -> list[Seen]:
    """The jobs that were submitted to join a cluster and have not ended, the newest first."""
    known = [each for each in allocations.every(run_dir) if each.command == (JOIN, run)]
    seen, _ = status.current(known)
    return [each for each in reversed(seen) if not each.state.ended]


@click.command("shrink")
@click.argument("run")
@click.argument("jobs", nargs=-1)
@click.option("--last", default=1, type=click.IntRange(1), metavar="N", show_default=True,
              help="Without JOBS: so many, the newest first.")  # fmt: skip
@RUN_DIR
def shrink(run: str, jobs: tuple[str, ...], last: int, run_dir: str) -> None:
    """Let JOBS that have joined cluster RUN leave in order; one that still waits is cancelled."""
    entry = registry.find(run)
    there = joined(entry.id, run_dir)
    staying = [each.allocation for each in there if not _leaving(each.allocation).exists()]
    meant = allocations.find(run_dir, jobs) if jobs else staying[:last]
    names = {each.name for each in meant}
    chosen = [each.allocation for each in there if each.allocation.name in names]
    if not chosen or len(chosen) < len(names):
        ids = ", ".join(each.allocation.job_id for each in there) or "none"
        raise configuration(
            f"no such job has joined the cluster {entry.id}",
            f"jobs that have: {ids}",
            next_step="rayhpc alloc list; another place of its records is named by --run-dir",
        )
    cancel_allocations([each for each in chosen if not _asked(each)], tell)
    for allocation in chosen:
        _leaving(allocation).touch()


def _asked(allocation: Allocation) -> bool:
    """Ask the runs of a job to leave; False where it has none. A scheduler's signal would end Ray's processes too."""
    runs = [run for run in allocations.runs(allocation) if run.code is None]
    for run in runs:
        Path(run.directory, paths.LEAVE).touch()
        tell(f"asked job {allocation.job_id} to leave: its nodes finish their work first")
    return bool(runs)


def _leaving(allocation: Allocation) -> Path:
    """The mark of a job that leaves or was cancelled, which its scheduler may not say yet: `shrink` takes another."""
    return Path(allocation.directory, "leaving")


def grow_parameters() -> list[click.Parameter]:
    """What `grow` takes: as a submission."""
    return [
        click.Argument(["run"]),
        *command_line.parameters(Request),
        click.Option(["--scheduler"], default="", metavar="NAME", help="Another than that of the cluster's own job."),
        click.Option(["--script"], default="", metavar="FILE", help="The jobscript. Default: the one that is shipped."),
        click.Option(["--dry-run"], is_flag=True, help="Print the command and the script; submit nothing."),
    ]
