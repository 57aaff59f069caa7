"""`rayhpc cluster …`: the clusters that run, seen, entered and ended from the login node."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from rayhpc.cli.base import JSON_OPTION, Told, WithCommand, clipped, json_text, print_table, printable, tell
from rayhpc.cli.metrics import cluster_metrics
from rayhpc.clusters import sight
from rayhpc.clusters.attach import attach_command, become
from rayhpc.clusters.forget import forget_clusters, forget_gone
from rayhpc.clusters.liveness import Life
from rayhpc.clusters.sight import Sight
from rayhpc.clusters.stop import ask_to_stop, wait_until_stopped
from rayhpc.clusters.tunnel import GRAFANA, PROMETHEUS, plan_tunnel
from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration, counted
from rayhpc.jobs import targets
from rayhpc.metrics.prometheus import USER
from rayhpc.model import KUBERAY, ClusterEntry
from rayhpc.records import registry

_SHOWN_COMMAND = 60
_HELD = "(held)"

_ID = click.argument("cluster_id", required=False, metavar="[ID]", default="", envvar=targets.VARIABLE)


@click.group("cluster", cls=Told, context_settings={"max_content_width": 100})
def cluster() -> None:
    """Your running clusters. An ID is a run's, its beginning or end, its job's, or an address.

    Without one that of RAYHPC_ADDRESS is meant, else the newest.
    """


def _warn(faults: Sequence[Fault]) -> None:
    for fault in faults:
        tell(f"WARNING: {fault.what}: the states of its jobs are not known")


_COLUMNS = ("ID", "STATE", "NODES", "CPUS", "GPUS", "HEAD", "JOB", "SINCE", "COMMAND")


@cluster.command("list")
@JSON_OPTION
@click.option("--address-file", default="", metavar="FILE", help="Also write the addresses of those that take jobs.")
def list_clusters(as_json: bool, address_file: str) -> None:
    """All clusters and their states."""
    seen, faults = sight.look(registry.every())
    if as_json:
        click.echo(json_text([_fields(each) for each in seen]))
    else:
        print_table(_COLUMNS, [_row(each) for each in seen])
    _warn(faults)
    if address_file:
        written = targets.write(address_file, [each.entry for each in seen if each.life is not Life.GONE])
        tell(
            f"{written} of {len(seen)} clusters in {address_file}\n  rayhpc job submit --address-file {address_file} …"
        )


def _head(entry: ClusterEntry) -> str:
    """The head's host; on Kubernetes its service, since the entry's host is the one that keeps the entry."""
    return entry.address.rpartition(":")[0] if entry.scheduler == KUBERAY else entry.host


def _fields(seen: Sight) -> dict[str, Any]:
    age = None if seen.age == float("inf") else round(seen.age, 1)
    state = {"state": seen.life.value, "why": seen.verdict.why, "heartbeat_age": age}
    return {**dataclasses.asdict(seen.entry), **state, "token_file": registry.token_file(seen.entry)}


def _row(seen: Sight) -> tuple[str, ...]:
    entry = seen.entry
    shown = clipped(shlex.join(entry.command) or _HELD, _SHOWN_COMMAND)
    return (
        entry.id, seen.life.value, str(entry.nodes), f"{entry.cpus:g}", f"{entry.gpus:g}", _head(entry),
        entry.batch_job_id, time.strftime("%m-%d %H:%M", time.localtime(entry.started_at)), printable(shown),
    )  # fmt: skip


@cluster.command()
@_ID
@JSON_OPTION
def show(cluster_id: str, as_json: bool) -> None:
    """One cluster, with all that is known of it."""
    (seen,), faults = sight.look([registry.find(cluster_id)])
    if as_json:
        click.echo(json_text(_fields(seen)))
    else:
        for name, text in _lines(seen):
            click.echo(f"{name:<10} {printable(text)}")
    _warn(faults)


def _lines(seen: Sight) -> list[tuple[str, str]]:
    entry = seen.entry
    job = [("job", f"{entry.batch_job_id} ({entry.scheduler})")] if entry.batch_job_id else []
    kept = f"process {entry.pid} on {entry.host} holds the port"
    keeper = kept if entry.scheduler == KUBERAY else f"rank 0 is process {entry.pid}"
    return [
        ("cluster", entry.id),
        ("state", f"{seen.life.value}: {seen.verdict.why}"),
        ("size", f"{counted(entry.nodes, 'node')}, {entry.cpus:g} CPUs, {entry.gpus:g} GPUs"),
        ("address", entry.address),
        *([("dashboard", entry.dashboard)] if entry.dashboard else []),
        *([("prometheus", f"{entry.metrics} on its host")] if entry.metrics else []),
        ("head", f"{_head(entry)}, {keeper}"),
        *job,
        ("since", _moment(entry.started_at)),
        *([("until", _moment(entry.deadline))] if entry.deadline else []),
        ("driver", shlex.join(entry.command) or _HELD),
        ("run", entry.run_dir),
        *(("guest", line) for line in entry.guests),
        ("token", str(registry.token_file(entry)) + (", with a certificate (TLS)" if entry.tls else "")),
    ]


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


cluster.add_command(cluster_metrics)


@cluster.command()
@_ID
def address(cluster_id: str) -> None:
    """HOST:PORT of the cluster, and nothing else."""
    click.echo(registry.find(cluster_id).address)


@cluster.command(cls=WithCommand)
@_ID
def attach(cluster_id: str, words: tuple[str, ...]) -> None:
    """A shell, or COMMAND, that knows the cluster. RAY_ADDRESS and the token's path are set; its exit code is ours."""
    attach_command(registry.find(cluster_id), words, tell)


def _default_via() -> str:
    return f"{registry.account()}@{os.uname().nodename}"


@cluster.command()
@_ID
@click.option("--via", default=_default_via, show_default="you at this host", metavar="[USER@]HOST",
              help="The login node, as your laptop knows it.")  # fmt: skip
@click.option("--prometheus", is_flag=True, help=f"Also port {PROMETHEUS} of the head's host.")
@click.option("--grafana", is_flag=True, help=f"Also port {GRAFANA} of the head's host.")
@click.option("--open", "now", is_flag=True, help="Run it here, until Ctrl-C.")
def tunnel(cluster_id: str, via: str, prometheus: bool, grafana: bool, now: bool) -> None:
    """Print the `ssh -L` to the dashboard, for your laptop. On Kubernetes: forward its ports here, until Ctrl-C."""
    wanted = [("Prometheus", PROMETHEUS, prometheus), ("Grafana", GRAFANA, grafana)]
    entry = registry.find(cluster_id)
    if entry.scheduler == KUBERAY:
        _kube_tunnel(entry, [(name, port) for name, port, asked in wanted if asked])
    plan = plan_tunnel(entry, via, [(name, port) for name, port, asked in wanted if asked])
    for name, url in plan.pages:
        tell(f"  {name}: {url}")
    if entry.dashboard or entry.metrics:
        tell(
            f"  they ask for the token: cat {shlex.quote(str(registry.token_file(entry)))}; Prometheus for user {USER}"
        )
    if now:
        become(plan.argv, os.environ)
    click.echo(shlex.join(plan.argv))


def _kube_tunnel(entry: ClusterEntry, extra: Sequence[tuple[str, int]]) -> NoReturn:
    """`kubectl port-forward` to the head's services, again whenever it breaks, until Ctrl-C."""
    from rayhpc.kube import access, forward

    kubectl, service = access.place(entry), entry.address.partition(".")[0]
    pages = [("dashboard", "http", kubectl, service, access.DASHBOARD, access.DASHBOARD),
             ("Ray client", "ray", kubectl, service, access.RAY_CLIENT, access.RAY_CLIENT)]  # fmt: skip
    for name, port in extra:
        pages += [(name, "http", *access.monitoring(kubectl, name.lower(), port), port)]
    forwards = []
    for name, scheme, place, target, there, usual in pages:
        here = forward.local_port(usual)
        tell(f"  {name}: {scheme}://localhost:{here}" + ("" if here == usual else f"  ({usual} is in use here)"))
        forwards.append(forward.Forward(place, target, [(here, there)]))
    tell(f"  the dashboard asks for the token: cat {shlex.quote(str(registry.token_file(entry)))}")
    forward.wait(forwards, tell)


@cluster.command()
@click.argument("ids", nargs=-1)
@click.option("--wait/--no-wait", default=True, help="Wait until everything has ended, the default; or only ask.")
@click.option("--timeout", default=120.0, type=click.FloatRange(0), metavar="S", show_default=True,
              help="How many seconds to wait.")  # fmt: skip
def stop(ids: tuple[str, ...], wait: bool, timeout: float) -> None:
    """End clusters, each by SIGTERM to its rank 0, and wait for it. Asked twice, a cluster ends at once."""
    entries = _distinct([registry.find(word) for word in ids]) if ids else [_only()]
    ask_to_stop(entries)
    if wait:
        wait_until_stopped(entries, timeout, tell)
    else:
        tell(f"asked {counted(len(entries), 'cluster')} to end\n  rayhpc cluster list")


def _only() -> ClusterEntry:
    """The only cluster; which of several shall end must be said."""
    known = registry.every()
    if len(known) > 1:
        names = ", ".join(entry.id for entry in known)
        raise configuration("several clusters run: say which to end", names, next_step="rayhpc cluster stop ID…")
    return registry.find("")


def _distinct(entries: Sequence[ClusterEntry]) -> list[ClusterEntry]:
    return list(dict.fromkeys(entries))


@cluster.command()
@click.argument("ids", nargs=-1)
@click.option("--gone", is_flag=True, help="All that are surely gone.")
@click.option("--force", is_flag=True, help="Also one that may be alive: nobody can reach it then from here.")
def forget(ids: tuple[str, ...], gone: bool, force: bool) -> None:
    """Remove entries of what is gone. A run that is killed with its host leaves its entry."""
    if bool(ids) == gone or (gone and force):
        step = "rayhpc cluster forget ID…, or rayhpc cluster forget --gone"
        raise RayhpcError(Fault("either IDs, with or without --force, or --gone", ExitCode.USAGE, next_step=step))
    faults: list[Fault] = []
    if gone:
        forgotten, faults = forget_gone()
    else:
        forgotten = _distinct([registry.find(word) for word in ids])
        forget_clusters(forgotten, force)
    for entry in forgotten:
        tell(f"{entry.id} forgotten")
    if not forgotten:
        tell("nothing to forget")
    _warn(faults)
