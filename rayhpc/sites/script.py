"""A jobscript with the facts of a site in it, and the batch system that makes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rayhpc.batch import jobscript
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import BatchSystem, Request
from rayhpc.sites.table import Site, queue_for, site_request

_PREFIXES = {
    "slurm": "#SBATCH",
    "pbs": "#PBS",
    "torque": "#PBS",
    "cobalt": "#COBALT",
    "lsf": "#BSUB",
    "sge": "#$",
    "flux": "#flux:",
}
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
# What the shipped scripts ask for themselves.
_OF_SCRIPTS = Request(nodes=4, time="60")


def lines(site: Site) -> list[str]:
    """What the job does at this site: modules, then variables, each only where it is not set yet."""
    variables = {
        **({"RAYHPC_INTERFACE": site.interface} if site.interface else {}),
        **site.variables,
        **(dict.fromkeys(_PROXIES, site.proxy) if site.proxy else {}),
    }
    return [
        f"# {site.title}: {site.source[0]}, {site.date}",
        *(f"module {words}" for words in site.modules),
        *jobscript.exports({"RAYHPC_SITE": site.name}),
        *jobscript.defaults(variables),
    ]


def _with_lines(text: str, site: Site) -> str:
    """Behind the settings of the submission, which therefore count; a script without that place has the command's."""
    found = text.split("\n")
    marks = [line.strip() for line in found]
    if jobscript.SETTINGS in marks:
        place = marks.index(jobscript.SETTINGS) + 1
    elif jobscript.COMMAND in marks:
        place = marks.index(jobscript.COMMAND)
    else:
        return text  # whoever fills it in refuses it
    return "\n".join([*found[:place], *lines(site), *found[place:]])


def system_of(site: Site) -> BatchSystem:
    """The site's batch system, whose scripts have the site's facts.

    What is required stands in the script, not among the flags: a job that submits its script again needs it too.
    """
    system = SYSTEMS[site.scheduler]

    def adapted(text: str) -> str:
        return _with_lines(_with_directives(system.adapted(text), site, site.directives), site)

    return dataclasses.replace(system, adapted=adapted)


def edited(site: Site, text: str) -> str:
    """A shipped script as one for this site: its directives, its lines, and its queues to choose from."""
    system = SYSTEMS[site.scheduler]
    queue = queue_for(site, _OF_SCRIPTS)
    request = site_request(site, queue, _OF_SCRIPTS)
    # The script's own size and time stay; of the flags, those of every request are at the end.
    flags, always = (
        system.flags(each, "-", text) for each in (dataclasses.replace(request, nodes=None, time=""), Request())
    )
    directives = [*_grouped(flags[: len(flags) - len(always)]), *request.directive, *site.directives]
    comments = [f"# {each.words}" for each in site.queues]
    return _with_lines(_with_directives(text, site, directives, comments), site)


def _grouped(words: Sequence[str]) -> list[str]:
    """Flags with their values, one each."""
    found: list[str] = []
    for word in words:
        if word.startswith("-") or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


def _with_directives(text: str, site: Site, flags: Sequence[str], comments: Sequence[str] = ()) -> str:
    """The flags as directives behind the script's own, in the place of those that say the same thing."""
    prefix = _PREFIXES[site.scheduler]
    new = [f"{prefix} {flag}" for flag in flags]
    said = {line.partition("=")[0] for line in new}
    kept = [line for line in text.split("\n") if not (line.startswith(prefix) and line.partition("=")[0] in said)]
    last = max((place for place, line in enumerate(kept) if line.startswith(f"{prefix} ")), default=0)
    return "\n".join([*kept[: last + 1], *new, *comments, *kept[last + 1 :]])
