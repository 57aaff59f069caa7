"""A site and its queues as values, and which of them takes a job. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rayhpc.errors import ExitCode, Fault, RayhpcError, counted
from rayhpc.schedulers.facts import Request, clock

INTERNET = ("yes", "no", "proxy")
ASKED = ("cpus", "gpus")


@dataclass(frozen=True)
class Limit:
    """For so many hosts a job may take so long. most: None without an upper end that is known."""

    least: int
    most: int | None
    seconds: int

    def takes(self, nodes: int, seconds: int) -> bool:
        """True for a job within the limit."""
        return self.least <= nodes <= (self.most or nodes) and seconds <= self.seconds

    @property
    def words(self) -> str:
        """'1-2 hosts for 01:00:00'."""
        if self.least == self.most:
            return f"{counted(self.least, 'host')} for {clock(self.seconds)}"
        hosts = f"{self.least} and more" if self.most is None else f"{self.least}-{self.most}"
        return f"{hosts} hosts for {clock(self.seconds)}"


@dataclass(frozen=True)
class Queue:
    """One queue, partition or quality of service. only_named: never chosen by itself, as jobs in it may be killed.

    partition: what the scheduler calls it, where that is another name; qos: it is one, or it needs one; cpus, gpus: of
    its hosts, where they differ from the site's.
    """

    name: str
    limits: tuple[Limit, ...]
    partition: str = ""
    qos: str = ""
    directives: tuple[str, ...] = ()
    only_named: bool = False
    cpus: int | None = None
    gpus: int | None = None
    note: str = ""

    def takes(self, nodes: int, seconds: int) -> bool:
        """True for a job of this size and length."""
        return any(limit.takes(nodes, seconds) for limit in self.limits)

    @property
    def words(self) -> str:
        """Its limits in one line."""
        return f"{self.name}: {', '.join(limit.words for limit in self.limits)}"


@dataclass(frozen=True)
class Site:
    """What is known of a machine from its public documentation. None and empty: not known.

    source: where it is said; date: of that text; cpus: logical CPUs that a job may use of a host; ask: of `cpus` and
    `gpus` those that a job has to ask for; known_by: variables that the site sets on its hosts; internet: from compute
    hosts; variables: set in the job; unknown: what was looked for in vain; file: a user's own, else empty.
    """

    name: str
    title: str
    source: tuple[str, ...]
    date: str
    scheduler: str
    queues: tuple[Queue, ...]
    cpus: int | None = None
    gpus: int | None = None
    gpu_variable: str = ""
    ask: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
    interface: str = ""
    scratch: str = ""
    node_local: str = ""
    modules: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    proxy: str = ""
    internet: str = ""
    known_by: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    file: str = ""

    def is_here(self, environ: Mapping[str, str]) -> bool:
        """True on a host of the site, by all variables that it sets; False where it sets none that is known."""
        return bool(self.known_by) and all(environ.get(name) == value for name, value in self.known_by.items())


def usage(what: str, *evidence: str, next_step: str) -> RayhpcError:
    """A request that the site would refuse."""
    return RayhpcError(Fault(what, ExitCode.USAGE, evidence=evidence, next_step=next_step))


def queue_for(site: Site, request: Request) -> Queue:
    """The queue that is named, or the first that takes the job; raises RayhpcError with those that would."""
    try:
        nodes, seconds = request.nodes, request.seconds
    except ValueError as error:
        raise usage(str(error), next_step="-t 90, or -t 01:30:00") from error
    if nodes is None or seconds is None:
        raise usage(f"--site {site.name} needs -N and -t", next_step="say both: the queue is chosen by them")
    job = f"{counted(nodes, 'host')} for {clock(seconds)}"
    fitting = [queue for queue in site.queues if queue.takes(nodes, seconds)]
    if request.queue:
        return _named(site, request.queue, fitting, job)
    chosen = next((queue for queue in fitting if not queue.only_named), None)
    if chosen is None:
        raise usage(f"no queue of {site.name} takes {job}", *_limits(site), next_step=_would(fitting))
    return chosen


def _named(site: Site, name: str, fitting: list[Queue], job: str) -> Queue:
    found = next((queue for queue in site.queues if queue.name == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [queue.name for queue in site.queues], 1)
        step = f"did you mean {near[0]}?" if near else f"name one of them, or add it to a file of your own: {OWN}"
        raise usage(f"the table of {site.name} has no queue {name}", *_limits(site), next_step=step)
    if found not in fitting:
        raise usage(f"the queue {name} of {site.name} does not take {job}", found.words, next_step=_would(fitting))
    return found


OWN = "~/.config/rayhpc/sites/NAME.yaml"


def _limits(site: Site) -> list[str]:
    return [queue.words + (" (only if you name it)" if queue.only_named else "") for queue in site.queues]


def _would(fitting: list[Queue]) -> str:
    if not fitting:
        return "ask for fewer hosts or less time; a driver that ends with 75 goes on in the next job (docs/walltime.md)"
    return f"-q {' or '.join(queue.name for queue in fitting)} takes it; or leave -q out"


def site_request(site: Site, queue: Queue, request: Request) -> Request:
    """The request in the site's words: partition, quality of service, what has to be asked for and the queue requires.

    Raises RayhpcError for more CPUs or GPUs than a host has.
    """
    has = {
        "cpus": site.cpus if queue.cpus is None else queue.cpus,
        "gpus": site.gpus if queue.gpus is None else queue.gpus,
    }
    asked = {"cpus": request.cpus_per_node, "gpus": request.gpus_per_node}
    for kind, number in asked.items():
        most = has[kind]
        if number is None:
            asked[kind] = (most or None) if kind in site.ask else None
        elif most is not None and number > most:
            raise usage(
                f"hosts of the queue {queue.name} have {counted(most, kind[:-1].upper())}, and {number} were asked for",
                f"the table of {site.name}, {site.date}",
                next_step=f"--{kind}-per-node {most}; if the table is old, correct it in {OWN}",
            )
    return replace(
        request,
        queue=queue.partition or ("" if queue.qos else queue.name),
        cpus_per_node=asked["cpus"],
        gpus_per_node=asked["gpus"],
        directive=(*([f"--qos={queue.qos}"] if queue.qos else []), *queue.directives, *request.directive),
    )
