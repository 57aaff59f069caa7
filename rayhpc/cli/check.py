"""`rayhpc cluster check`: a probe on every node of every cluster, a table, and what is not well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from rayhpc import finding
from rayhpc.cli.base import JSON_OPTION, json_text, print_table, tell
from rayhpc.clusters.probe import findings
from rayhpc.clusters.probe.run import Answer, Terms, probe_clusters
from rayhpc.errors import ExitCode, Fault, RayhpcError, counted
from rayhpc.finding import Finding
from rayhpc.jobs import targets
from rayhpc.jobs.ray_api import Server
from rayhpc.model import ClusterEntry
from rayhpc.records import registry


@dataclass(frozen=True)
class Checked:
    """A cluster: its nodes, as its first probe saw them; what is not well; how long each probe took; what failed."""

    cluster: str
    nodes: tuple[dict[str, Any], ...]
    findings: tuple[Finding, ...]
    seconds: tuple[float, ...]
    faults: tuple[Fault, ...]


@click.command("check")
@click.argument("ids", nargs=-1)
@click.option("--num-jobs", default=1, type=click.IntRange(1), metavar="N", show_default=True,
              help="Probes on each cluster at once: a load for its job API.")  # fmt: skip
@click.option("--timeout", default=180.0, type=click.FloatRange(1), metavar="S", show_default=True,
              help="How many seconds a probe may take.")  # fmt: skip
@JSON_OPTION
def check(ids: tuple[str, ...], num_jobs: int, timeout: float, as_json: bool) -> None:
    """Look at every node of clusters, all of mine if none is named. Ends with 0 if all nodes are well, else with 78.

    GPUs: what the node sees of what Ray was given. DISK, SHM: what is free. MB/S: a transfer from the rank before.
    """
    entries = list(dict.fromkeys(map(registry.find, ids))) or registry.every() or [registry.find("")]
    tell(f"{counted(num_jobs, 'probe')} on {counted(len(entries), 'cluster')}")
    checked = _checked(entries, num_jobs, timeout)
    if as_json:
        click.echo(json_text(checked))
    else:
        print_table(findings.COLUMNS, [row for each in checked for row in findings.rows(each.cluster, each.nodes)])
    sys.exit(_verdict(checked))


def _checked(entries: Sequence[ClusterEntry], number: int, seconds: float) -> list[Checked]:
    servers = [_server(entry) for entry in entries]
    reached = [server for server in servers if isinstance(server, Server)]
    answers = iter(probe_clusters(reached, number, Terms(seconds, registry.account())))
    return [
        _result(entry, next(answers)) if isinstance(server, Server) else Checked(entry.id, (), (), (), (server,))
        for entry, server in zip(entries, servers, strict=True)
    ]


def _server(entry: ClusterEntry) -> Server | Fault:
    try:
        return targets.with_job_api(entry)
    except RayhpcError as error:
        return error.fault


def _result(entry: ClusterEntry, answers: Sequence[Answer]) -> Checked:
    expected = findings.Expected(entry.nodes, entry.gpus)
    good = [answer for answer in answers if answer.fault is None]
    found = [each for answer in good for each in findings.findings(expected, answer.nodes)]
    return Checked(
        cluster=entry.id,
        nodes=good[0].nodes if good else (),
        findings=tuple(dict.fromkeys(found)),
        seconds=tuple(round(answer.seconds, 1) for answer in answers),
        faults=tuple(dict.fromkeys(answer.fault for answer in answers if answer.fault is not None)),
    )


def _verdict(checked: Sequence[Checked]) -> int:
    """Tell what is not well, and how long it took; the exit code."""
    faults = dict.fromkeys(fault for each in checked for fault in each.faults)
    for fault in faults:
        tell(fault.text())
    found = finding.joined(_placed(each, cluster.cluster) for cluster in checked for each in cluster.findings)
    took = [seconds for each in checked for seconds in each.seconds]
    if found or not faults:
        nodes = counted(sum(len(each.nodes) for each in checked), "node")
        tell(finding.report(found, f"rayhpc cluster check: {nodes}, {counted(len(took), 'probe')} in {_range(took)} s"))
    return int(ExitCode.CONFIGURATION) if found or faults else 0


def _placed(found: Finding, cluster: str) -> Finding:
    return replace(found, where=f"{found.where} of {cluster}" if found.where else cluster)


def _range(seconds: Sequence[float]) -> str:
    """14.3, or 14.3 to 16.1."""
    return " to ".join(dict.fromkeys(f"{value:g}" for value in (min(seconds), max(seconds))))
