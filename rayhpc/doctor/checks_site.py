"""The check of a host against the table of its site; silent where no table is meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rayhpc.doctor.here import Here
from rayhpc.finding import Finding, warn
from rayhpc.host import this_host
from rayhpc.host.gpu_variables import HIP, ROCR
from rayhpc.sites import load
from rayhpc.sites.table import OWN, Site


def site_table(here: Here) -> Iterator[Finding]:
    """The host is as the table of its site says (rayhpc alloc sites).

    A job of `rayhpc alloc submit --site` is asked for by that table, and a machine changes: its scheduler, the network,
    CPUs, GPUs and directories are compared. RAYHPC_SITE names the site; else it is known by the variables that it sets.
    """
    site = load.here(here.environ)
    found = [*_job(here, site), *_host(here, site)] if site else []
    if site and found:
        yield warn(
            f"this host is not as the table of {site.name} says",
            *found,
            next_step=f"look at {site.source[0]} (the table is of {site.date}); correct it in {OWN}",
        )


def _job(here: Here, site: Site) -> Iterator[str]:
    if here.scheduler and here.scheduler.name != site.scheduler:
        yield f"scheduler: the table says {site.scheduler}, and this is a job of {here.scheduler.name}"
    # Either names AMD's, of which HIP's is added where it is missing.
    variable, wanted = (HIP if name == ROCR else name for name in (here.gpus.variable, site.gpu_variable))
    if here.gpus.ids and wanted and variable != wanted:
        yield f"GPUs: the table says {site.gpu_variable}, and they are named by {here.gpus.variable}"
    most = max((number for number in _numbers(site, "gpus")), default=None)
    if most is not None and len(here.gpus.ids) > most:
        yield f"GPUs: the table says {most} at most, and this rank has {len(here.gpus.ids)}"


def _host(here: Here, site: Site) -> Iterator[str]:
    least = min((number for number in _numbers(site, "cpus")), default=0)
    if this_host.cpu_count() < least and here.scheduler:
        yield f"CPUs: the table says {least} at least, and the host has {this_host.cpu_count()}"
    if site.interface and not this_host.interfaces(site.interface):
        names = dict.fromkeys(entry.name for entry in this_host.interfaces())
        yield f"network: the table says {site.interface}, and there are {', '.join(names) or 'none'}"
    for kind, path in (("scratch", site.scratch), ("node-local", site.node_local if here.scheduler else "")):
        place = path.replace("$USER", here.environ.get("USER", ""))
        if place and not Path(place).is_dir():
            yield f"{kind}: the table says {path}, which is not here"


def _numbers(site: Site, name: str) -> list[int]:
    found = [getattr(site, name), *(getattr(queue, name) for queue in site.queues)]
    return [number for number in found if number is not None]
