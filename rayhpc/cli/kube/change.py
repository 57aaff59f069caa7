"""`rayhpc kube scale` and `delete`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from rayhpc.cli.base import tell
from rayhpc.cli.kube.options import NAME, NAMES, PLACE, kubectl_of, with_options
from rayhpc.cli.kube.see import print_objects
from rayhpc.errors import counted
from rayhpc.jobs import address_file, targets
from rayhpc.kube import objects
from rayhpc.kube.options import refused
from rayhpc.model import ClusterEntry
from rayhpc.records import registry


@click.command("scale")
@NAME
@click.argument("number", metavar="[GROUP=]NUMBER")
@with_options(*PLACE)
def scale(name: str, number: str, **said: Any) -> None:
    """Change the number of workers."""
    group, _, count = number.rpartition("=")
    if not count.isdigit():
        raise refused("the number of workers is none", repr(count), "rayhpc kube scale NAME GROUP=4")
    kubectl = kubectl_of(said)
    groups = kubectl.json("get", "raycluster", name)["spec"]["workerGroupSpecs"]
    change = json.dumps(objects.scaling(groups, group, int(count)))
    kubectl.run("patch", "raycluster", name, "--type=json", "-p", change)
    tell(f"{name}: {counted(int(count), 'worker')} wanted\n  rayhpc kube show {name}")


@click.command("delete")
@NAMES
@click.option("--prefix", default="", help="All of mine whose names begin so.")
@click.option("--all", "every", is_flag=True, help="All of mine.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_options(*PLACE)
def delete(names: tuple[str, ...], prefix: str, every: bool, yes: bool, **said: Any) -> None:
    """Delete clusters and jobs, after they were shown."""
    if bool(names) + bool(prefix) + every != 1:
        raise refused("what to delete is not said, or said twice", "names, --prefix or --all", "rayhpc kube list")
    kubectl = kubectl_of(said)
    found = [objects.one(kubectl, name) for name in names] or objects.mine(kubectl, registry.account())
    wanted = [each for each in found if objects.name(each).startswith(prefix)]
    if not wanted:
        tell("nothing to delete")
        return
    print_objects(wanted)
    if not yes:
        _ask(len(wanted))
    clusters = objects.remove(kubectl, wanted)
    tell(f"deleted: {', '.join(map(objects.name, wanted))}")
    _forget(each for each in registry.every() if each.id in clusters)


def _ask(number: int) -> None:
    """Raises RayhpcError where nobody can answer, click.Abort for a no."""
    if not sys.stdin.isatty():
        raise refused("nothing was deleted: nobody can be asked", "standard input is no terminal", "say --yes")
    click.confirm(f"delete {counted(number, 'object')}?", abort=True, err=True)


def _forget(entries: Iterable[ClusterEntry]) -> None:
    gone = list(entries)
    registry.forget_seen(gone)
    for entry in gone:
        tell(f"{entry.batch_job_id} is out of the registry")
    if gone and (file := targets.default_file()):
        address_file.save(Path(file), [], [entry.dashboard for entry in gone])


COMMANDS = (scale, delete)
