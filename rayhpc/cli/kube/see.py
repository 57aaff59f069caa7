"""`rayhpc kube list`, `show` and `logs`: what is there, and why it waits."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import click

from rayhpc.cli.base import JSON_OPTION, json_text, print_table, printable, tell
from rayhpc.cli.kube.options import NAME, PLACE, kubectl_of, with_options
from rayhpc.clusters.attach import become
from rayhpc.kube import launch, objects
from rayhpc.kube.options import refused
from rayhpc.records import registry

_COLUMNS = ("name", "kind", "state", "workers", "cpus", "gpus", "user", "since", "image")


@click.command("list")
@click.option("--all-users", is_flag=True, help="Also those of others.")
@JSON_OPTION
@with_options(*PLACE)
def list_objects(all_users: bool, as_json: bool, **said: Any) -> None:
    """My clusters and jobs."""
    found = objects.mine(kubectl_of(said), "" if all_users else registry.account())
    if as_json:
        click.echo(json_text([objects.fields(each) for each in found]))
    else:
        print_objects(found)


def print_objects(found: Sequence[dict[str, Any]]) -> None:
    """A table of clusters and jobs."""
    rows = [{**objects.fields(each), "since": _moment(objects.made_at(each))} for each in found]
    cells = [[printable(row[column]) for column in _COLUMNS] for row in rows]
    print_table([column.upper() for column in _COLUMNS], cells)


def _moment(at: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(at))


@click.command("show")
@NAME
@JSON_OPTION
@with_options(*PLACE)
def show(name: str, as_json: bool, **said: Any) -> None:
    """A cluster or a job, its pods, and why each waits."""
    kubectl = kubectl_of(said)
    found = objects.one(kubectl, name)
    view = launch.glance(kubectl, found)
    if as_json:
        pods = [dataclasses.asdict(pod) for pod in view.pods]
        faults = [dataclasses.asdict(fault) for fault in view.faults]
        click.echo(json_text({**objects.fields(found), "pods": pods, "faults": faults}))
        return
    print_objects([found])
    click.echo()
    print_table(("POD", "GROUP", "STATE"), [(pod.name, pod.group, pod.state) for pod in view.pods])
    for fault in view.faults:
        tell(fault.text(ends=False))


@click.command("logs")
@NAME
@click.option("--pod", default="", help="One of its pods.  [default: the head]")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until Ctrl-C.")
@with_options(*PLACE)
def logs(name: str, pod: str, follows: bool, **said: Any) -> None:
    """What Ray writes in a pod; of a job: rayhpc job logs."""
    kubectl = kubectl_of(said)
    pods = launch.glance(kubectl, objects.one(kubectl, name)).pods
    meant = [each.name for each in pods if (each.name == pod if pod else each.group == objects.HEAD)]
    if not meant:
        what = f"{name} has no pod {pod}" if pod else f"{name} has no head"
        evidence = f"its pods: {', '.join(each.name for each in pods) or 'none'}"
        raise refused(what, evidence, f"rayhpc kube show {name}")
    become(kubectl.argv("logs", meant[0], "--all-containers", *(["-f"] if follows else [])), os.environ)


COMMANDS = (list_objects, show, logs)
