"""Checks of this host: its limits, its names and networks, and what of another Ray is around."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rayhpc.bootstrap import announce, resources, share
from rayhpc.doctor.here import Here
from rayhpc.errors import counted, shortened
from rayhpc.finding import Finding, fail, warn
from rayhpc.host import network, this_host
from rayhpc.host.network import Knock
from rayhpc.processes import this_process

# A node runs 150 threads, and 25 more for each worker process; Ray keeps a worker for each CPU.
_THREADS, _THREADS_OF_A_WORKER = 150, 25
_LEAST_MEMORY = 2**30
_LEAST_LOCKED = 2**26
_VERBS = "/dev/infiniband"
_PROXY_SECONDS = 2.0
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy")
_RAYS = frozenset({"raylet", "gcs_server"})


def limits(here: Here) -> Iterator[Finding]:
    """Open files, processes and address space are enough for Ray on these CPUs.

    Ray's daemons on the head open 75 files, and a worker process runs 25 threads, which count as processes. Beyond the
    limit a thread cannot be started, and Ray dies with a message that does not say so. rayhpc raises the soft limits to
    the hard ones itself.
    """
    in_cgroup, cpus = this_host.process_limit(), len(this_host.affinity())
    notices = resources.check_address_space(here.options, this_process.address_space())
    for text in (*notices, *this_process.small_limits(in_cgroup)):
        yield warn(text, next_step="raise the hard limit where the job starts, or ask the site")
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    free_of_it = hard == resource.RLIM_INFINITY or os.geteuid() == 0
    allowed = min([limit for limit in (in_cgroup, None if free_of_it else hard) if limit is not None], default=None)
    wanted = _THREADS + _THREADS_OF_A_WORKER * cpus
    if allowed is not None and this_process.AMPLE_LIMIT <= allowed < wanted:
        yield warn(
            f"{allowed} processes are allowed, and Ray on {cpus} CPUs may need {wanted}",
            "threads count as processes",
            next_step="raise ulimit -Hu or pids.max where the job starts, or say --num-cpus",
        )


def memlock(_: Here) -> Iterator[Finding]:
    """With InfiniBand: programs may lock enough memory for it.

    NCCL and MPI register memory with such a network, which locks it. Below 64 MiB they fail when training begins, or
    use TCP without a word.
    """
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if Path(_VERBS).is_dir() and hard != resource.RLIM_INFINITY and hard < _LEAST_LOCKED:
        yield warn(
            f"only {hard >> 10} KiB of memory may be locked, on a host with InfiniBand",
            "hard limit: ulimit -Hl",
            next_step="ask the site for unlimited; with Slurm: PropagateResourceLimitsExcept=MEMLOCK",
        )


def cgroup(here: Here) -> Iterator[Finding]:
    """The cgroup grants the memory and CPUs of the job, and 1 GiB at least.

    What goes beyond a cgroup's memory is killed without a message; CPUs beyond its quota only make all slow.
    """
    usable, promised = this_host.memory(), here.scheduler.memory(here.environ) if here.scheduler else None
    if usable < _LEAST_MEMORY:
        yield warn(
            "less than 1 GiB of memory is usable, and a Ray node with one worker needs as much",
            f"usable: {usable >> 20} MiB, by the host's free memory and the cgroup's memory.max",
            next_step="ask the scheduler for more memory (Slurm: --mem)",
        )
    limit = this_host.memory_limit()
    if promised and limit and limit < 0.9 * promised:
        yield warn(
            "the cgroup grants less memory than the scheduler has promised",
            f"memory.max: {limit >> 20} MiB; promised: {promised >> 20} MiB",
            next_step="ask the site; until then: --memory",
        )
    quota, cpus = this_host.cpu_limit(), here.scheduler.cpus(here.environ) if here.scheduler else None
    if quota and cpus and quota < cpus:
        yield warn(
            "the cgroup grants fewer CPUs than the scheduler has promised",
            f"cpu.max: {quota}; promised: {cpus}",
            next_step="ask the site; Ray uses what the cgroup grants",
        )


def host_name(_: Here) -> Iterator[Finding]:
    """The host's own name leads to an address that other hosts can reach.

    rayhpc passes addresses on, but torch's and NCCL's rendezvous, and many drivers, ask for the address of the host's
    name. On Debian /etc/hosts may say 127.0.1.1: then each host believes that it is the head.
    """
    name = socket.gethostname()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        yield warn(
            "the host's own name does not resolve",
            f"{name}: {error.strerror}",
            next_step="ask the site to enter the host in DNS or /etc/hosts; drivers: use the address that Ray tells",
        )
        return
    if all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        yield warn(
            "the host's own name leads to its loopback",
            f"{name}: {shortened(sorted(found))}",
            next_step="remove the line of 127.0.1.1 from /etc/hosts; drivers: use the address that Ray tells",
        )


def interfaces(here: Here) -> Iterator[Finding]:
    """A network interface is up, and has an IPv4 address.

    Without one, a run has one host. Ray works over IPv6, but few clusters use it so, and torch and NCCL need settings.
    """
    found = resources.interfaces(here.options.interface)
    if here.meeting and here.meeting.hosts > 1 and [entry.name for entry in found] == ["lo"]:
        yield fail("no network interface is up but the loopback", next_step="ask the site, or leave this host out")
    elif all(":" in entry.address for entry in found):
        yield warn(
            "the host has IPv6 addresses alone",
            *(f"{entry.name} {entry.address}" for entry in found),
            next_step="choose a network with IPv4 if there is one: --interface; else try a small run first",
        )


def proxy(here: Here) -> Iterator[Finding]:
    """The proxy that the environment names answers, and Ray goes around it.

    rayhpc exempts the cluster's addresses from proxies, by no_proxy. What a driver downloads goes through the proxy:
    one that cannot be reached from compute hosts makes it hang. no_grpc_proxy hides no_proxy from Ray's connections.
    """
    lowered = {name.lower(): (name, value) for name, value in here.environ.items() if value}
    for name, value in sorted({lowered[name][1]: lowered[name] for name in _PROXIES if name in lowered}.values()):
        parts = urlsplit(value if "//" in value else f"//{value}")
        with contextlib.suppress(ValueError):  # no number as the port
            address = f"{parts.hostname}:{parts.port or 80}"
            if network.knock(address, _PROXY_SECONDS) is not Knock.OPEN:
                yield warn(
                    f"the proxy of {name} does not answer",
                    f"tried {address} for {_PROXY_SECONDS:g} s",  # no user and password of the URL
                    next_step=f"correct {name}, or unset it where the hosts have no way out",
                )
    if "no_grpc_proxy" in lowered and any(name in lowered for name in _PROXIES):
        yield fail(
            "no_grpc_proxy is set: gRPC then ignores no_proxy, and Ray would go through the proxy",
            next_step="unset no_grpc_proxy; rayhpc puts the cluster's addresses into no_proxy",
        )


def binding(here: Here) -> Iterator[Finding]:
    """The launcher has not bound the ranks to fewer CPUs than the job has.

    A Ray node counts the CPUs that its rank may use. Open MPI binds each rank to one core unless told.
    """
    if here.launched is None or here.meeting is None or here.options.num_cpus is not None:
        return
    granted, own = resources.granted_cpus(here.scheduler, here.launched.by, here.environ), len(this_host.affinity())
    usable, quota = own * here.meeting.ranks_here, this_host.cpu_limit()
    if granted and here.launched.by != "aprun" and usable < granted and not (quota and quota <= usable):
        yield warn(
            f"{here.launched.by} has bound the ranks: {usable} of {granted} CPUs are usable",
            f"{counted(here.meeting.ranks_here, 'rank')} on this host, {counted(own, 'CPU')} each",
            next_step=f"add {share.unbinding(here.launched.by)}",
        )


def ray_variables(here: Here) -> Iterator[Finding]:
    """The environment points at no other Ray cluster.

    A RAY_ADDRESS of yesterday lets a driver of plain Ray connect to yesterday's cluster, or to somebody else's. rayhpc
    takes such variables out of all that it starts; commands that you type yourself still read them.
    """
    for text in announce.ignored_variables(here.environ):
        yield warn(text, next_step="remove them from ~/.bashrc or the jobscript")


def other_ray(_: Here) -> Iterator[Finding]:
    """No Ray runs on this host already.

    It takes CPUs and memory that the job believes to be its own, and a plain ray.init() may find it. Several runs of
    rayhpc on one host do not disturb each other.
    """
    if found := this_host.processes(_RAYS):
        yield warn(
            "a Ray runs on this host already",
            shortened([f"{name} {pid} of {user}" for pid, name, user in found]),
            next_step="if it is yours, end it where it was started; else ask the site who is on this host",
        )


def ray_token(_: Here) -> Iterator[Finding]:
    """There is no ~/.ray/auth_token of plain Ray.

    rayhpc has a token for each run, in files of its own. Ray commands that you type yourself use the token of that file
    once RAY_AUTH_MODE=token is set, and every cluster of rayhpc refuses it.
    """
    with contextlib.suppress(RuntimeError):  # no home: the check of that name says so
        file = Path.home() / ".ray" / "auth_token"
        if os.path.lexists(file):
            yield warn(
                "plain Ray has left a token in your home directory",
                str(file),
                next_step="remove it unless a cluster of yours needs it; for ours: rayhpc cluster attach",
            )
