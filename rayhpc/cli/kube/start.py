"""`rayhpc kube manifest`, `launch` and `address`: from options to registered clusters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rayhpc.cli.base import INTERRUPTED, WithCommand, tell
from rayhpc.cli.kube.board import watch
from rayhpc.cli.kube.options import CLUSTER, CLUSTERS, JOB, NAMES, OUTPUT, PLACE, TIMEOUT, kubectl_of, with_options
from rayhpc.errors import counted
from rayhpc.jobs import address_file
from rayhpc.jobs.address_file import Address
from rayhpc.kube import access, launch, manifest, objects, parse
from rayhpc.kube.job import line
from rayhpc.kube.kubectl import check_access
from rayhpc.kube.options import JobOptions, refused
from rayhpc.model import ClusterEntry
from rayhpc.records import registry


@click.command("manifest", cls=WithCommand)
@with_options(*CLUSTER, CLUSTERS, *JOB)
def print_manifest(words: tuple[str, ...], ttl: int, time: str, **said: Any) -> None:
    """Print what `launch` would apply; with a COMMAND, what `job` would."""
    wanted = JobOptions(line(words), ttl, parse.deadline(time)) if words else None
    click.echo(manifest.text(parse.documents(said, registry.account(), wanted)), nl=False)


@click.command("launch")
@with_options(*CLUSTER, CLUSTERS)
@click.option("--wait/--no-wait", default=True, help="Until the clusters are ready and registered, the default.")
@TIMEOUT
@OUTPUT
def launch_clusters(wait: bool, timeout: float, output: str, **said: Any) -> None:
    """Start clusters, and show what each pod does and why it waits. Ctrl-C ends the watching, not the start."""
    documents = parse.documents(said, registry.account())
    kubectl = kubectl_of(said)
    check_access(kubectl, "rayclusters")
    for name in launch.apply(kubectl, documents, registry.account()):
        tell(f"{name} was there: KubeRay changes its numbers of workers alone; for all else: rayhpc kube delete {name}")
    names = [document["metadata"]["name"] for document in documents]
    if not wait:
        _tell_next(f"applied: {', '.join(names)}", names)
        return
    try:
        ready = watch(kubectl, names, "RayCluster", timeout)
        _tell_entries([access.register(kubectl, ready[name]) for name in names], output)
    except KeyboardInterrupt:
        _tell_next(f"\ndetached: {', '.join(names)} {'goes' if len(names) == 1 else 'go'} on", names)
        sys.exit(INTERRUPTED)


def _tell_next(what: str, names: Sequence[str]) -> None:
    together = " ".join(names)
    tell(f"{what}\n  rayhpc kube show {names[0]}\n  rayhpc kube address {together}\n  rayhpc kube delete {together}")


def _tell_entries(entries: Sequence[ClusterEntry], output: str) -> None:
    for entry in entries:
        click.echo(f"{entry.batch_job_id}\t{entry.dashboard}")
    if output:
        file = Path(output).expanduser()
        number = address_file.save(file, [Address(entry.dashboard, entry.batch_job_id) for entry in entries], ())
        tell(f"{counted(number, 'line')} of addresses in {file}")
    tell(f"  rayhpc job submit --cluster {entries[-1].batch_job_id} -- python train.py\n  rayhpc cluster list")


@click.command("address")
@NAMES
@with_options(*PLACE)
@OUTPUT
def address(names: tuple[str, ...], output: str, **said: Any) -> None:
    """Register clusters that are up, and print their addresses; without a NAME all of mine.

    A job's NAME means its cluster.
    """
    kubectl = kubectl_of(said)
    found = [objects.cluster(kubectl, name) for name in names] or objects.mine(kubectl, registry.account())
    ready = [each for each in found if objects.state(each) == "ready" and each["kind"] == "RayCluster"]
    waiting = [each for each in found if each not in ready]
    if not ready or (names and waiting):
        evidence = ", ".join(f"{objects.name(each)}: {objects.state(each)}" for each in waiting) or "there is none"
        step = f"rayhpc kube show {objects.name(waiting[0])}" if waiting else "rayhpc kube launch --image IMAGE"
        raise refused("a cluster is not ready" if ready else "no cluster is ready", evidence, step)
    _tell_entries([access.register(kubectl, each) for each in ready], output)


COMMANDS = (print_manifest, launch_clusters, address)
