"""`rayhpc job …`: jobs on running clusters, from the command line to the exit code."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from rayhpc.cli.base import INTERRUPTED, JSON_OPTION, Told, clipped, json_text, print_table, printable, tell
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.jobs import find, ray_api, targets
from rayhpc.jobs.find import Found
from rayhpc.jobs.follow import follow_job, shown_log
from rayhpc.jobs.job_file import load
from rayhpc.jobs.preview import preview
from rayhpc.jobs.ray_api import Server
from rayhpc.jobs.request import JobRequest, command_line
from rayhpc.jobs.stop import stop_jobs
from rayhpc.jobs.submit import Pair, check_before_submitting, submit_job, to_each
from rayhpc.jobs.targets import Choice
from rayhpc.jobs.wait import wait_for_jobs
from rayhpc.records import registry
from rayhpc.user_input.secret_names import RULE, is_secret, secrets_in

_SHOWN_COMMAND = 34
_COLUMNS = ("JOB ID", "USER", "START", "END", "STATUS", "ENTRYPOINT")
_IDS = click.argument("ids", nargs=-1, metavar="[ID]...")
F = TypeVar("F", bound=Callable[..., Any])

_CHOICE = (
    click.option("--cluster", default="", metavar="ID", help="One registered cluster; its end will do, as 4d6f."),
    click.option("--address", default="", metavar="ADDRESS", envvar=targets.VARIABLE, show_envvar=True,
                 help="Of its GCS or dashboard, as HOST:PORT or a URL; also a colleague's."),
    click.option("--address-file", default="", metavar="FILE", help="The clusters in FILE, an address on each line."),
    click.option("--token-file", default="", metavar="FILE", help="The token for these addresses."),
)  # fmt: skip


def _chosen(command: F) -> F:
    """The options by which a cluster is chosen, given to the command as one Choice."""

    @functools.wraps(command)
    def wrapped(cluster: str, address: str, address_file: str, token_file: str, **values: Any) -> Any:
        by_variable = click.get_current_context().get_parameter_source("address") is ParameterSource.ENVIRONMENT
        if by_variable and (cluster or address_file):  # an option wins
            address = ""
        source = targets.VARIABLE if by_variable and address else ""
        return command(choice=Choice(cluster, address, address_file, token_file, source), **values)

    made: Any = wrapped
    for option in reversed(_CHOICE):
        made = option(made)
    return made  # type: ignore[no-any-return]


class _Submit(click.Command):
    """Knows whether `--` stands before the words: with a file those are its script's arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note what stands before the first word that is no option."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        before = given[: len(given) - len(ctx.params["command"])]
        ctx.params["divided"] = before[-1:] == ["--"]
        return rest


@click.group("job", cls=Told, context_settings={"max_content_width": 100})
def job() -> None:
    """Run jobs on clusters that are up (--dashboard), and follow them.

    They are sought in all of mine, if none is named; without any, in those of the file ~/.ray_address.
    """


@job.command(
    "submit", cls=_Submit, options_metavar="[OPTIONS] [--]", context_settings={"allow_interspersed_args": False}
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--config", default="", metavar="FILE", help="The job in a file, job.yaml; behind --: more arguments.")
@click.option("--env-file", default="", metavar="FILE", help="Secrets for ${VAR} in it.  [default: .env beside it]")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="A variable of the job; NAME alone: as it is here.")
@click.option("--not-secret", multiple=True, metavar="NAME", help=f"No secret, though its name is as {RULE}.")
@click.option("--dry-run", is_flag=True, help="Print what would be submitted; submit nothing.")
@click.option("--follow/--no-follow", help="Print what the job writes, and end with its code.  [default: no-follow]")
@click.option("--each", is_flag=True, help="Each word is a job's command line: the first for the first cluster, …")
@click.option("--all", "to_all", is_flag=True, help="The same job to every cluster.")
@click.option("--working-dir", default="", metavar="DIR", help="Where the job starts.  [default: here]")
@click.option("--num-cpus", type=click.FloatRange(0), metavar="N", help="CPUs that the job waits for.")
@click.option("--num-gpus", type=click.FloatRange(0), metavar="N", help="GPUs that the job waits for.")
@_chosen
def submit(
    choice: Choice, command: tuple[str, ...], follow: bool, each: bool, to_all: bool, dry_run: bool, **said: Any
) -> None:
    """Run COMMAND as a job, on the newest cluster if none is named. What follows COMMAND is its own.

    One word is a line for sh: 'echo hi; hostname'. Several are a program and its arguments, as they are typed.
    """
    _check_words(command, said, follow, each, to_all)
    request = _request(() if each else command, said)
    for hint in request.hints:
        tell(f"{said['config']}, {hint}")
    if dry_run:
        for line in command if each else [request.entrypoint]:
            click.echo(preview(dataclasses.replace(request, entrypoint=line), secrets_in(os.environ)))
        return
    meant = targets.meant(choice)
    pairs = [Pair(server, request) for server in (meant.servers if to_all else meant.servers[-1:])]
    source = meant.source or ("" if each or to_all or choice.cluster else "the newest")
    _hand_in(to_each(meant.servers, request, command) if each else pairs, choice, source, follow)


def _check_words(command: Sequence[str], said: dict[str, Any], follow: bool, each: bool, to_all: bool) -> None:
    """Raises RayhpcError for what cannot be said together: with --each, a file is for all that is no command."""
    if follow + each + to_all > 1:
        raise _usage("--follow, --each and --all exclude each other", "to wait for many jobs: rayhpc job wait ID...")
    if not command and (each or not said["config"]):
        step = "rayhpc job submit -- python train.py, or rayhpc job submit --config job.yaml"
        raise _usage("--each names no command" if each else "there is no command and no --config", step)
    if command and said["config"] and not each and not said["divided"]:
        step = f"arguments for its script stand behind --: rayhpc job submit --config {said['config']} -- {command[0]}"
        raise _usage("--config is in place of a command", step)
    if said["env_file"] and not said["config"]:
        raise _usage("--env-file is for --config", "rayhpc job submit --help")


def _usage(what: str, step: str) -> RayhpcError:
    return RayhpcError(Fault(what, ExitCode.USAGE, next_step=step))


def _request(command: Sequence[str], options: dict[str, Any]) -> JobRequest:
    """The job of a file or of the words; what the options say wins."""
    config, env_file, public = options["config"], options["env_file"], options["not_secret"]
    said = load.Said(os.environ, Path(env_file) if env_file else None, public, tuple(command))
    made = load.load(Path(config), said) if config else JobRequest(command_line(command) if command else "")
    given = dict(map(_variable, options["env"]))
    hidden = [name for name in given if is_secret(name) and name not in public]
    wanted = {name: options[name] for name in ("num_cpus", "num_gpus") if options[name] is not None}
    return dataclasses.replace(
        made,
        working_dir=options["working_dir"] or made.working_dir or str(Path.cwd()),
        resources={**made.resources, **wanted},
        environment={**made.environment, **given},
        secrets=tuple(dict.fromkeys([*made.secrets, *hidden])),
    )


def _variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME as the shell has it; raises RayhpcError."""
    name, sign, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise _usage(f"--env {name[:40]!r} is no name of a variable", "--env NAME=VALUE, or --env NAME")
    if not sign and name not in os.environ:
        raise _usage(f"--env {name}: it is not set here", f"export {name}=…, or --env {name}=VALUE")
    return name, value if sign else os.environ[name]


def _hand_in(pairs: Sequence[Pair], choice: Choice, source: str, follow: bool) -> None:
    check_before_submitting(pairs)
    submitted = []
    for pair in pairs:
        entry = submit_job(pair, registry.account())
        submitted.append(entry)
        tell(f"job {entry.job.id} to cluster {entry.server.name}" + (f" ({source})" if source else ""))
        if not follow:
            click.echo(entry.job.id)
    if follow:
        sys.exit(follow_to_end(submitted[0], choice))
    _tell_next([entry.job.id for entry in submitted], choice)


def _tell_next(ids: Sequence[str], choice: Choice) -> None:
    for verb in ("logs -f", "wait", "stop"):
        shown = ids[:1] if verb == "logs -f" else ids
        tell(f"  rayhpc job {verb} {' '.join([*shown, *_again(choice)])}")


def _again(choice: Choice) -> list[str]:
    """The options by which the same cluster is found again, where ids alone do not do."""
    said = dataclasses.asdict(choice)
    del said["cluster"], said["source"]
    if choice.source:  # the next command finds the variable, too
        del said["address"]
    return [
        shlex.quote(word) for name, value in said.items() if value for word in (f"--{name.replace('_', '-')}", value)
    ]


def follow_to_end(entry: Found, choice: Choice) -> int:
    """Print a job's output until it has ended; its exit code; raises RayhpcError. Ctrl-C leaves the job alone."""
    try:
        ended = follow_job(entry, _write)
    except KeyboardInterrupt:
        tell(f"\ndetached: job {entry.job.id} goes on")
        _tell_next([entry.job.id], choice)
        return INTERRUPTED
    tell(f"job {ended.id} {ended.words}")
    return ended.exit_code


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()


def _servers(choice: Choice) -> list[Server]:
    """The clusters that are meant; tells where that comes from, if it was not typed."""
    meant = targets.meant(choice)
    if meant.source and meant.source in (targets.VARIABLE, targets.default_file()):
        tell(f"{', '.join(server.name for server in meant.servers)} ({meant.source})")
    return list(meant.servers)


def _meant(choice: Choice, ids: Sequence[str]) -> list[Found]:
    """The jobs with these ids; without any the newest of mine, which is told."""
    found = find.meant(_servers(choice), ids, registry.account())
    if not ids:
        tell(f"job {found[0].job.id}, the newest")
    return found


@job.command("list")
@click.option("--all-users", is_flag=True, help="Also jobs of others.")
@click.option("--all-statuses", is_flag=True, help="Also jobs that have ended.")
@JSON_OPTION
@_chosen
def list_jobs(choice: Choice, all_users: bool, all_statuses: bool, as_json: bool) -> None:
    """My jobs that run or wait, in all my clusters."""
    found, faults = find.everywhere(_servers(choice))
    me = registry.account()
    jobs = [
        entry.job for entry in found if (all_users or entry.job.is_of(me)) and (all_statuses or not entry.job.ended)
    ]
    if as_json:
        click.echo(json_text([{**dataclasses.asdict(entry), "exit_code": _code(entry)} for entry in jobs]))
    else:
        print_table(_COLUMNS, [_row(entry) for entry in jobs])
    for fault in faults:
        tell(fault.text())
    sys.exit(int(faults[0].code) if faults else 0)


def _code(entry: ray_api.Job) -> int | None:
    return entry.exit_code if entry.ended else None


def _row(entry: ray_api.Job) -> tuple[str, ...]:
    shown = clipped(printable(entry.entrypoint), _SHOWN_COMMAND)
    return (entry.id, entry.user or "-", _at(entry.started_at), _at(entry.ended_at), entry.status, shown)


def _at(seconds: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


@job.command("logs")
@click.argument("job_id", metavar="[ID]", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@_chosen
def print_logs(choice: Choice, job_id: str, follow: bool) -> None:
    """What a job has written; without an ID my newest."""
    (entry,) = _meant(choice, [job_id] if job_id else [])
    if follow:
        if follow_to_end(entry, choice) == INTERRUPTED:
            sys.exit(INTERRUPTED)
    else:
        text = shown_log(entry.job, ray_api.logs(entry.server, entry.job.id))
        _write(text)
        if warning := ray_api.lost_output(entry.job, text):
            tell(warning)


@job.command("stop")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--force", is_flag=True, help="Also jobs of others.")
@_chosen
def stop(choice: Choice, ids: tuple[str, ...], force: bool) -> None:
    """End my jobs, SIGTERM first, and wait until they have ended."""
    stop_jobs(_meant(choice, ids), registry.account(), force, tell)


@job.command("wait")
@_IDS
@_chosen
def wait(choice: Choice, ids: tuple[str, ...]) -> None:
    """Wait for jobs to end, by default my newest; the exit code is theirs, of several the first that is not 0."""
    sys.exit(wait_for_jobs(_meant(choice, ids), tell))
