"""Machines by name: `rayhpc alloc sites`, and what a request becomes at one of them."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import click

from rayhpc.cli.base import JSON_OPTION, json_text, print_table, tell
from rayhpc.errors import RayhpcError
from rayhpc.schedulers.facts import BatchSystem, Request
from rayhpc.sites import load
from rayhpc.sites.script import lines, system_of
from rayhpc.sites.table import Queue, Site, queue_for, site_request


def at_site(name: str, request: Request) -> tuple[BatchSystem, Request]:
    """The batch system of a site and the request in its words; tells the queue. Raises RayhpcError as they do."""
    site = load.find(name, os.environ)
    queue = queue_for(site, request)
    adapted = site_request(site, queue, request)
    tell(f"{site.name}: queue {queue_text(queue)}")
    return system_of(site), adapted


@click.command("sites")
@click.argument("name", required=False)
@JSON_OPTION
def list_sites(name: str | None, as_json: bool) -> None:
    """The machines that are known by name; with NAME: its queues, limits and facts, and where they are from."""
    found: list[Site] = []
    faults: list[RayhpcError] = []
    for each in [name] if name else load.names(os.environ):
        try:
            found.append(load.find(each, os.environ))
        except RayhpcError as error:
            faults.append(error)
    if as_json:
        click.echo(json_text([dataclasses.asdict(site) for site in found]))
    elif name and found:
        _show(found[0])
    elif found:
        print_table(("NAME", "SCHEDULER", "GPUS", "OF", "WHAT"), [_row(site) for site in found])
    for fault in faults:
        tell(fault.fault.text())
    sys.exit(int(faults[0].fault.code) if faults else 0)


def _row(site: Site) -> tuple[str, ...]:
    gpus = "" if site.gpus is None else str(site.gpus)
    here = " (you are here)" if site.is_here(os.environ) else ""
    return (site.name, site.scheduler, gpus, site.date, f"{site.title}{here}{', your own' if site.file else ''}")


def _show(site: Site) -> None:
    for name, text in _facts(site):
        click.echo(f"{name:<11} {text}")
    click.echo("in the job:")
    for line in lines(site):
        click.echo(f"  {line}")


def _facts(site: Site) -> list[tuple[str, str]]:
    """What a table says, a name and a text for each line; nothing for what is not known."""
    rows: list[tuple[str, Any]] = [
        ("site", site.title),
        ("scheduler", site.scheduler),
        *(("queue", queue_text(each)) for each in site.queues),
        ("CPUs", site.cpus),
        ("GPUs", f"{site.gpus}, {site.gpu_variable}" if site.gpus and site.gpu_variable else site.gpus),
        ("required", " ".join(site.directives)),
        ("network", site.interface),
        ("scratch", site.scratch),
        ("node-local", site.node_local),
        ("internet", f"through {site.proxy}" if site.proxy else site.internet),
        *(("not known", text) for text in site.unknown),
        *(("source", text) for text in site.source),
        ("date", site.date),
        ("file", site.file),
    ]
    return [(name, str(text)) for name, text in rows if text not in (None, "")]


def queue_text(queue: Queue) -> str:
    """Limits of a queue, what is different there, and its note."""
    marks = queue_marks(queue)
    return queue.words + (f" ({'; '.join(marks)})" if marks else "")


def queue_marks(queue: Queue) -> list[str]:
    """What is to be known of a queue besides its limits."""
    own = [f"{number} {kind}" for kind, number in (("CPUs", queue.cpus), ("GPUs", queue.gpus)) if number is not None]
    return [*own, *(["only if you name it"] if queue.only_named else []), *([queue.note] if queue.note else [])]
