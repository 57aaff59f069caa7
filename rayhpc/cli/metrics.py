"""`rayhpc runs metrics` and `rayhpc cluster metrics`: what a run did to its hosts, afterwards and while it runs."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

import click

from rayhpc.cli.base import JSON_OPTION, RUN_DIR, json_text, print_table, save, tell
from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration, counted
from rayhpc.metrics import grafana, kept, picture
from rayhpc.metrics.prometheus import USER
from rayhpc.metrics.questions import Prometheus, Series
from rayhpc.records import registry
from rayhpc.records import runs as recorded

_PICTURE = "metrics.png"


@click.command("metrics")
@click.argument("run", required=False, default="", metavar="[RUN]")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Default: metrics.png in the run.")
@click.option("--query", default="", metavar="PROMQL", help="Print what the kept metrics answer at the end of the run.")
@JSON_OPTION
@RUN_DIR
def run_metrics(run: str, output: Path | None, query: str, as_json: bool, run_dir: str) -> None:
    """Draw CPUs, GPUs, memory, object store and network of each host; or ask --query. The run may still go on."""
    if as_json and not query:
        step = "rayhpc runs metrics --query 'max by (host) (ray_node_mem_used)' --json"
        raise RayhpcError(Fault("--json wants a question", ExitCode.USAGE, next_step=step))
    meant = recorded.find(run_dir, run)
    begin, end = recorded.span(meant)
    with kept.served(meant) as server:
        if query:
            _answer(server, query, end, as_json)
            return
        title = f"run {meant.id}, {counted(meant.nodes, 'node')} on {counted(meant.hosts, 'host')}"
        content = picture.draw(server, begin, end, title)
    file = output or Path(meant.directory, _PICTURE)
    save(file, content)
    click.echo(file)
    tell(f"  from elsewhere: scp {shlex.quote(f'{socket.gethostname()}:{file.absolute()}')} .")


def _answer(server: Prometheus, query: str, moment: float, as_json: bool) -> None:
    found = server.at(query, moment)
    if as_json:
        click.echo(json_text([{"labels": dict(one.labels), "value": one.last} for one in found]))
    else:
        print_table(("SERIES", "VALUE"), [(_name(one), f"{one.last:g}") for one in found])


def _name(series: Series) -> str:
    labels = ", ".join(f"{key}={value}" for key, value in sorted(series.labels.items()) if key != "__name__")
    return f"{series.labels.get('__name__', '')}{{{labels}}}"


@click.command("metrics")
@click.argument("cluster_id", required=False, default="", metavar="[ID]")
@click.option("--grafana", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Write the files for a Grafana, Ray's dashboards among them, into this new directory.")  # fmt: skip
def cluster_metrics(cluster_id: str, folder: Path | None) -> None:
    """Where a running cluster's Prometheus is, and how to reach it; the files for a Grafana."""
    entry = registry.find(cluster_id)
    if not entry.metrics:
        raise configuration(f"the cluster {entry.id} has no metrics", next_step="start it with --metrics")
    token = registry.token_file(entry)
    click.echo(f"{'prometheus':<10} {entry.metrics}  (on {entry.host}; from your laptop: rayhpc cluster tunnel)")
    click.echo(f"{'login':<10} user {USER}, password: cat {shlex.quote(str(token))}")
    click.echo(f"{'kept in':<10} {entry.run_dir}/metrics; rayhpc runs metrics {shlex.quote(entry.run_dir)}")
    if folder is not None:
        grafana.write(folder, entry.metrics, token.read_text().strip())
        tell(f"  on {entry.host}, with a Grafana: {shlex.join(grafana.command(folder))}")
