"""Stage 1: what this rank may use of its host."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import rayhpc
from rayhpc import paths, units
from rayhpc.errors import configuration
from rayhpc.host import gpus, ownership, this_host
from rayhpc.inside_ray.names import DASHBOARD_PACKAGES
from rayhpc.model import Interface, RankResources, Versions
from rayhpc.options import AMPLE_ADDRESS_SPACE, LEAST_ADDRESS_SPACE, OBJECT_STORE_MINIMUM, Options
from rayhpc.processes import this_process
from rayhpc.schedulers.facts import Scheduler

# Ray's session of an idle node takes 0.3 MB; its logs grow, and beyond 95 % of the file system nothing is spilled.
_LEAST_SPACE = 50 * 2**20
# A node that is idle makes some hundred files and directories.
_LEAST_FILES = 1000
# The largest object store that Ray puts on a disk where /dev/shm is too small.
_SLOW_STORE = 10**10
_SHORT = paths.temp_base_limit(dashboard=False)


def survey(
    rank: int, options: Options, scheduler: Scheduler | None, launcher: str, environ: Mapping[str, str]
) -> RankResources:
    """The resources of this rank; raises RayhpcError where this host lacks something that the run needs."""
    base, notices = temp_base(options.temp_dir, environ, paths.temp_base_limit(options.dashboard))
    shm = this_host.free_space("/dev/shm")
    check_store(options, shm, environ)
    address_space = this_process.address_space()
    notices += (*check_address_space(options, address_space), *this_process.small_limits(this_host.process_limit()))
    memory = this_host.memory()
    granted = scheduler.memory(environ) if scheduler else None
    return RankResources(
        rank=rank,
        host=this_host.name(),
        host_id=this_host.identity(),
        interfaces=interfaces(options.interface),
        cpus=this_host.affinity(),
        cpu_limit=this_host.cpu_limit(),
        scheduler_cpus=granted_cpus(scheduler, launcher, environ),
        memory=min(memory, granted or memory),
        shm=shm,
        gpus=gpus.find(environ),
        temp_base=base,
        versions=versions(),
        launcher=launcher,
        warnings=notices,
        address_space=address_space,
    )


def check_agent(option: str) -> None:
    """Raises RayhpcError where packages of Ray's dashboard, or of its agent, are missing, which this option needs.

    The head would start and then die of it; a node would tell no metrics.
    """
    missing = [name for name in DASHBOARD_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise configuration(
            f"{option} needs packages that are not installed",
            f"missing: {', '.join(missing)}",
            next_step=f"pip install 'rayhpc[{option.strip('-')}]', or do without {option}",
        )


def versions() -> Versions:
    """Versions without importing ray: an import costs half a second, on a parallel file system minutes."""
    return Versions(installed_version("ray"), platform.python_version(), rayhpc.__version__)


def installed_version(package: str) -> str:
    """The version of an installed package; raises importlib.metadata.PackageNotFoundError.

    It is in the name of the directory NAME-VERSION.dist-info (packaging.python.org, Recording installed projects).
    importlib.metadata reads all that is in there, and is 40 ms and 20 imports of each rank.
    """
    for directory in sys.path:
        for found in Path(directory).glob(f"{package}-*.dist-info"):
            return found.name.removesuffix(".dist-info").removeprefix(f"{package}-")
    import importlib.metadata

    return importlib.metadata.version(package)


def check_store(options: Options, shm: int, environ: Mapping[str, str]) -> None:
    """Raises RayhpcError for an object store that Ray would refuse: too large for /dev/shm, and for a disk."""
    wanted = units.size(options.object_store_memory) if options.object_store_memory else 0
    elsewhere = "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE" in environ or any("plasma-dir" in arg for arg in options.ray_arg)
    if wanted > max(shm, _SLOW_STORE) and not elsewhere:
        raise configuration(
            f"--object-store-memory {options.object_store_memory}, but /dev/shm has {shm / 2**30:.1f} GiB free",
            next_step="ask for less; or put it on a disk: --ray-arg=--plasma-directory=DIR",
        )


def check_address_space(options: Options, limit: int | None) -> tuple[str, ...]:
    """A warning where a process may map little; raises RayhpcError where it is too little. limit: None for none."""
    store = units.size(options.object_store_memory) if options.object_store_memory else OBJECT_STORE_MINIMUM
    least = store + LEAST_ADDRESS_SPACE
    if limit is None or limit >= store + 4 * AMPLE_ADDRESS_SPACE:
        return ()
    allowed, name = f"only {limit >> 20} MiB of address space are allowed", f"ulimit -v {limit >> 10}"
    if limit < least:
        smaller = ", or name a smaller --object-store-memory" if options.object_store_memory else ""
        raise configuration(
            f"{allowed}, and Ray needs {least >> 20} at least",
            f"{name}; each process of Ray maps the object store, {store >> 20} MiB, and more",
            next_step=f"raise it where the job starts: ulimit -v unlimited{smaller}; if that is refused, ask the site",
        )
    return (f"{allowed} ({name}): Ray's object store is made to fit; libraries that map much may fail",)


def granted_cpus(scheduler: Scheduler | None, launcher: str, environ: Mapping[str, str]) -> int | None:
    """The scheduler's figure, which may be larger than the host; outside a job the host's for Open MPI alone.

    Open MPI binds ranks to cores unasked; elsewhere an affinity that is smaller than the host is the user's own.
    """
    if scheduler is None:
        return this_host.cpu_count() if launcher.startswith("Open MPI") else None
    figure = scheduler.cpus(environ)
    return None if figure is None else min(figure, this_host.cpu_count())


def interfaces(wanted: str) -> tuple[Interface, ...]:
    """The interfaces that a run may use, the loopback where there is no other; raises RayhpcError where none is as
    wanted.
    """
    found = this_host.interfaces(wanted)
    if found:
        return found
    if wanted:
        candidates = [f"{entry.name} {entry.address}" for entry in this_host.interfaces("*")]
        raise configuration(
            f"no interface of this host matches --interface {wanted}",
            *candidates,
            next_step="name one of these, a glob (hsn*) or a CIDR (10.1.0.0/16)",
        )
    return (Interface("lo", "127.0.0.1"),)


def temp_base(wanted: str, environ: Mapping[str, str], limit: int = _SHORT) -> tuple[str, tuple[str, ...]]:
    """The directory for Ray's sessions, and what the user should know of the choice; raises RayhpcError for none."""
    if wanted:
        problem = _temp_problem(wanted, limit)
        if problem:
            raise configuration(
                f"--temp-dir {wanted} {problem}",
                next_step=f"name a node-local, writable directory of at most {limit} bytes of ASCII",
            )
        drawbacks = (_network_problem(wanted), _program_problem(wanted))
        return wanted, tuple(f"--temp-dir {wanted} {drawback}" for drawback in drawbacks if drawback)
    rejected: list[str] = []
    for candidate in dict.fromkeys([environ.get("TMPDIR", ""), "/tmp", "/var/tmp", "/dev/shm"]):
        if not candidate:
            continue
        problem = _temp_problem(candidate, limit) or _network_problem(candidate)
        if not problem:
            forbidden = _program_problem(candidate)
            notices = [f"temporary directory {candidate} {forbidden}"] if forbidden else []
            return candidate, (*(f"{entry}; using {candidate}" for entry in rejected), *notices)
        rejected.append(f"temporary directory {candidate} {problem}")
    raise configuration("no directory for Ray's session files", *rejected, next_step="name one with --temp-dir")


def _temp_problem(directory: str, limit: int = _SHORT) -> str:
    """Why a directory cannot hold Ray's session; empty if it can."""
    length = len(os.fsencode(directory))
    if not directory.startswith("/"):
        return "is not an absolute path"
    if length > limit:
        return f"is {length} bytes long, at most {limit} fit (AF_UNIX paths end at 107)"
    if not directory.isascii():
        return "has letters beyond ASCII, which Ray's workers refuse"
    if problem := _owner_problem(directory):
        return problem
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".rh-") as probe:
            probe.write(b"0" * 4096)
            probe.flush()
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    free, files = this_host.free_space(directory), this_host.free_files(directory)
    if free < _LEAST_SPACE:
        return f"has {free >> 20} MiB free, Ray needs {_LEAST_SPACE >> 20} at least"
    return "" if files >= _LEAST_FILES else f"has room for {files} more files, Ray needs {_LEAST_FILES} at least"


def _owner_problem(directory: str) -> str:
    """Why another user could replace our directory, with its token, by another; empty if nobody can."""
    try:
        problem = ownership.ruled_by_others(Path(directory))
    except OSError:
        return ""  # the attempt to write reports it
    return f"cannot be trusted: {problem}" if problem else ""


def _network_problem(directory: str) -> str:
    kind = this_host.file_system(directory)
    slow = kind in this_host.NETWORK_FILE_SYSTEMS
    return f"is on {kind}: sockets and memory-mapped files there are slow or fail" if slow else ""


def _program_problem(directory: str) -> str:
    forbidden = this_host.forbids_programs(directory)
    return "is mounted noexec: what a runtime_env installs or compiles cannot run" if forbidden else ""
