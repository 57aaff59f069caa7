"""Stage 1: what this rank may use of its host."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import tempfile
from collections.abc import Mapping

import rayhpc
from rayhpc import host, paths
from rayhpc.errors import configuration
from rayhpc.model import Allocation, Gpus, Interface, Options, Versions
from rayhpc.schedulers.facts import Scheduler

# What ray.dashboard.optional_deps imports, of the packages that only ray[default] brings.
_DASHBOARD_PACKAGES = ("aiohttp_cors", "grpc", "opencensus", "prometheus_client")
_SHORT = paths.temp_base_limit(dashboard=False)


def survey(
    rank: int, options: Options, scheduler: Scheduler | None, launcher: str, environ: Mapping[str, str]
) -> Allocation:
    """This rank's allocation; raises RayhpcError where nothing that the run needs can be found on this host."""
    temp_base, notices = _temp_base(options.temp_dir, environ, paths.temp_base_limit(options.dashboard))
    memory = host.memory()
    granted = scheduler.memory(environ) if scheduler else None
    return Allocation(
        rank=rank,
        host=host.name(),
        host_id=host.identity(),
        interfaces=_interfaces(options.interface),
        cpus=host.affinity(),
        cpu_limit=host.cpu_limit(),
        scheduler_cpus=_scheduler_cpus(scheduler, launcher, environ),
        memory=min(memory, granted or memory),
        shm=host.free_space("/dev/shm"),
        gpus=_gpus(environ),
        temp_base=temp_base,
        versions=versions(),
        launcher=launcher,
        warnings=(*notices, *host.raised_limits()),
    )


def check_dashboard() -> None:
    """Raises RayhpcError where packages of the dashboard are missing: the head would start and then die of it."""
    missing = [name for name in _DASHBOARD_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise configuration(
            "--dashboard needs packages that are not installed",
            f"missing: {', '.join(missing)}",
            next_step="pip install 'rayhpc[dashboard]', or do without --dashboard",
        )


def versions() -> Versions:
    """Versions without importing ray: an import costs half a second, on a parallel file system minutes."""
    return Versions(importlib.metadata.version("ray"), platform.python_version(), rayhpc.__version__)


def _gpus(environ: Mapping[str, str]) -> Gpus:
    return host.gpus(environ)


def _scheduler_cpus(scheduler: Scheduler | None, launcher: str, environ: Mapping[str, str]) -> int | None:
    """The scheduler's figure, which may be larger than the host; outside a job the host's for Open MPI alone.

    Open MPI binds ranks to cores unasked; elsewhere an affinity that is smaller than the host is the user's own.
    """
    if scheduler is None:
        return host.cpu_count() if launcher.startswith("Open MPI") else None
    figure = scheduler.cpus(environ)
    return None if figure is None else min(figure, host.cpu_count())


def _interfaces(wanted: str) -> tuple[Interface, ...]:
    found = host.interfaces(wanted)
    if found:
        return found
    if wanted:
        candidates = [f"{entry.name} {entry.address}" for entry in host.interfaces("*")]
        raise configuration(
            f"no interface of this host matches --interface {wanted}",
            *candidates,
            next_step="name one of these, a glob (hsn*) or a CIDR (10.1.0.0/16)",
        )
    return (Interface("lo", "127.0.0.1"),)


def _temp_base(wanted: str, environ: Mapping[str, str], limit: int = _SHORT) -> tuple[str, tuple[str, ...]]:
    """The directory for Ray's sessions, and what the user should know of the choice."""
    if wanted:
        problem = _temp_problem(wanted, limit)
        if problem:
            raise configuration(
                f"--temp-dir {wanted} {problem}",
                next_step=f"name a node-local, writable directory of at most {limit} bytes",
            )
        slow = _network_problem(wanted)
        return wanted, (f"--temp-dir {wanted} {slow}",) if slow else ()
    rejected: list[str] = []
    for candidate in dict.fromkeys([environ.get("TMPDIR", ""), "/tmp", "/var/tmp", "/dev/shm"]):
        if not candidate:
            continue
        problem = _temp_problem(candidate, limit) or _network_problem(candidate)
        if not problem:
            return candidate, tuple(f"{entry}; using {candidate}" for entry in rejected)
        rejected.append(f"temporary directory {candidate} {problem}")
    raise configuration("no directory for Ray's session files", *rejected, next_step="name one with --temp-dir")


def _temp_problem(directory: str, limit: int = _SHORT) -> str:
    """Why a directory cannot hold Ray's session; empty if it can."""
    length = len(os.fsencode(directory))
    if not directory.startswith("/"):
        return "is not an absolute path"
    if length > limit:
        return f"is {length} bytes long, at most {limit} fit (AF_UNIX paths end at 107)"
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".rh-") as probe:
            probe.write(b"0" * 4096)
            probe.flush()
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    return ""


def _network_problem(directory: str) -> str:
    kind = host.file_system(directory)
    slow = kind in host.NETWORK_FILE_SYSTEMS
    return f"is on {kind}: sockets and memory-mapped files there are slow or fail" if slow else ""
