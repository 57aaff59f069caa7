"""`rayhpc alloc submit …`: a driver becomes a job, of a scheduler or at a site that is known by name."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from rayhpc.batch import allocations
from rayhpc.batch.allocations import Allocation
from rayhpc.batch.leave_out import without_bad_hosts
from rayhpc.batch.submit import Submission, doubts, plan_submission, submit_allocation
from rayhpc.cli.base import RUN_DIR, Told, default_run_dir, tell
from rayhpc.cli.sites import at_site
from rayhpc.launch import command_line
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import BatchSystem, Request

_SITE = "site"


class SubmitGroup(Told):
    """Its first word is a scheduler; where options come first, they are those of a site."""

    @staticmethod
    def named(args: list[str]) -> list[str]:
        """`--site NAME …` as `site --site NAME …`."""
        return [_SITE, *args] if args and args[0].startswith("-") and args[0] not in ("--help", "-h") else args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As the words of a command that has a name."""
        return super().parse_args(ctx, self.named(args))


@click.group("submit", cls=SubmitGroup)
def submit() -> None:
    """Copy a jobscript, write the driver's command into it, and submit it: to a scheduler, or to --site NAME."""


def submit_options(shipped: str = "that of the scheduler") -> list[click.Parameter]:
    """What the command line says of a job beside its driver. shipped: the jobscript without --script."""
    return [
        *command_line.parameters(Request),
        click.Option(["--script"], default="", metavar="FILE", help=f"The jobscript. Shipped: {shipped}."),
        click.Option(
            ["--check"], default="", is_flag=False, flag_value="stop", metavar="[=exclude]",
            callback=_checked, help="Check all hosts first. A failure ends the job with 78, or excludes the host.",
        ),
        click.Option(
            ["--spares"], default=0, type=click.IntRange(0), metavar="K",
            help="K hosts more than -N, which wait and take the place of bad or lost ones.",
        ),
        click.Option(["--exclude-bad"], is_flag=True, help="Leave out the hosts that rayhpc alloc bad lists."),
        click.Option(["--dry-run"], is_flag=True, help="Print the command and the script; submit nothing."),
    ]  # fmt: skip


def _checked(_: click.Context, __: click.Parameter, value: str) -> str:
    if value not in ("", "stop", "exclude"):
        raise click.BadParameter(f"{value!r} is neither stop nor exclude; before a driver write --check -- DRIVER")
    return value


def submit_driver(
    driver: Sequence[str], values: Mapping[str, Any], system: BatchSystem | None, site: str = ""
) -> None:
    """Submit to a scheduler, or to a site; values: of RUN_DIR and submit_options(). Raises RayhpcError."""
    request = Request(**{field.name: values[field.name] for field in dataclasses.fields(Request)})
    request = _with_spares(request, values["spares"])
    if system is None:
        system, request = at_site(site, request)
    script = values["script"]
    if values["exclude_bad"]:
        request = without_bad_hosts(system, request, script, tell)
    chosen = {"RAYHPC_CHECK": values["check"], "RAYHPC_SPARES": values["spares"]}
    environ = {**os.environ, **{name: str(value) for name, value in chosen.items() if value}}
    planned = plan_submission(system, request, driver, values["run_dir"], script, environ)
    submit_planned(planned, driver, values["dry_run"])


def _with_spares(request: Request, spares: int) -> Request:
    if spares and request.nodes is None:
        raise click.UsageError("--spares needs -N: the job gets N hosts and the spares")
    return dataclasses.replace(request, nodes=(request.nodes or 0) + spares) if spares else request


def submit_planned(submission: Submission, driver: Sequence[str], dry_run: bool) -> None:
    """Submit, print the job's id, tell what can be done next; RayhpcError where it cannot be submitted."""
    for doubt in doubts(driver):
        tell(f"WARNING: {doubt}")
    if dry_run:
        click.echo(submission.preview(os.environ), nl=False)
        return
    allocation = submit_allocation(submission)
    click.echo(allocation.job_id)
    _tell_next(allocation)


def _tell_next(allocation: Allocation) -> None:
    here = str(allocations.folder(default_run_dir()).parent)
    where = f" {shlex.join(['--run-dir', allocation.run_dir])}" if allocation.run_dir != here else ""
    for verb in ("show", "logs -f", "wait", "cancel"):
        tell(f"  rayhpc alloc {verb} {shlex.quote(allocation.job_id)}{where}")


def _command(system: BatchSystem | None) -> click.Command:
    """To a scheduler; without one to the site that is named."""

    def callback(driver: tuple[str, ...], **values: Any) -> None:
        submit_driver(driver, values, system, values.pop(_SITE, ""))

    name, shipped = (system.name, system.script) if system else (_SITE, "that of its scheduler")
    place = name if system else "a site, whose table chooses the queue and says what is required (rayhpc alloc sites)"
    shipped = f"jobscripts/{shipped}" if system and shipped else shipped or "there is none, so --script is needed"
    of_site = click.Option([f"--{_SITE}"], required=True, metavar="NAME", help="The machine: rayhpc alloc sites.")
    parameters: list[click.Parameter] = [
        *([] if system else [of_site]),
        *submit_options(shipped),
        click.Argument(["driver"], nargs=-1, required=True, type=click.UNPROCESSED),
    ]
    return RUN_DIR(
        click.Command(
            name,
            callback=callback,
            params=parameters,
            help=f"Submit DRIVER to {place}. What follows DRIVER is its own; put -- before one like -m module.",
            short_help=f"To {name}." if system else "To a machine that is known by name.",
            options_metavar="[OPTIONS] [--]",
            context_settings={"allow_interspersed_args": False},
        )
    )


for _system in (*SYSTEMS.values(), None):
    submit.add_command(_command(_system))
