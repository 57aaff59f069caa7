"""The one list of all checks: who makes which, what each is called, and what its explanation is."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from rayhpc.clusters.probe.findings import CHECKS as OF_A_CLUSTER
from rayhpc.doctor import checks_files, checks_gpus, checks_host, checks_job, checks_network, checks_python, checks_site
from rayhpc.doctor.here import Here
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.finding import Finding, name

Check = Callable[[Here], Iterable[Finding]]
_Check = TypeVar("_Check", bound=Callable[..., Iterable[Finding]])

# Each rank: what may differ between the ranks of a host.
OF_EACH_RANK: tuple[Check, ...] = (
    checks_host.binding,
    checks_gpus.gpu_variables,
    checks_gpus.gpu_tiles,
    checks_gpus.gpu_count,
)
# The first rank of each host; import_ray first, since it takes longest.
OF_EACH_HOST: tuple[Check, ...] = (
    checks_python.import_ray,
    checks_python.jobscript_version,
    checks_host.limits,
    checks_host.memlock,
    checks_host.cgroup,
    checks_host.host_name,
    checks_host.interfaces,
    checks_host.proxy,
    checks_host.ray_variables,
    checks_host.other_ray,
    checks_host.ray_token,
    checks_files.temp_dir,
    checks_files.shm,
    checks_files.home,
    checks_files.umask,
    checks_gpus.gpu_driver,
    checks_gpus.gpu_busy,
    checks_gpus.gpu_persistence,
    checks_gpus.gpu_mig,
    checks_gpus.gpu_torch,
    checks_site.site_table,
)
# The same rank, where there are others to compare with and to reach.
BETWEEN_HOSTS: tuple[Check, ...] = (
    checks_python.versions,
    checks_network.reach,
    checks_network.ports,
    checks_network.speed,
    checks_network.clock,
)
# Rank 0, or a process that was simply started.
OF_THE_JOB: tuple[Check, ...] = (
    checks_python.mpi_library,
    checks_python.mpi_launcher,
    checks_python.dashboard,
    checks_files.run_dir,
    checks_job.deadline,
    checks_job.requeue,
    checks_job.job_memory,
)
# Rank 0, where there are other ranks.
OF_A_LAUNCH: tuple[Check, ...] = (checks_python.ranks_meet, checks_job.login_node, checks_job.unused_hosts)
ALONE = (*OF_THE_JOB, *OF_EACH_HOST, *OF_EACH_RANK)
ALL = (*OF_A_LAUNCH, *BETWEEN_HOSTS, *ALONE)
_NAMES = [name(check) for check in ALL]
# What only a running cluster shows: `rayhpc cluster check` looks. Its other checks explain themselves as the doctor's.
INSIDE = tuple(check for check in OF_A_CLUSTER if name(check) not in _NAMES)
EXPLAINED: tuple[Callable[..., Iterable[Finding]], ...] = (*ALL, *INSIDE)


def title(check: Callable[..., Iterable[Finding]]) -> str:
    """What is well where the check says nothing, in one line."""
    return (inspect.getdoc(check) or "").partition("\n")[0]


def explanation(check: Callable[..., Iterable[Finding]]) -> str:
    """Why it matters, and what to do."""
    return (inspect.getdoc(check) or "").partition("\n")[2].strip()


def find(wanted: str, among: Iterable[_Check]) -> _Check:
    """The check of this id; raises RayhpcError, exit code 2, with the nearest id."""
    known = {name(check): check for check in among}
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, 1)
    step = f"did you mean {near[0]}? " if near else ""
    step += "rayhpc doctor explain lists all"
    raise RayhpcError(Fault(f"there is no check {wanted!r}", ExitCode.USAGE, next_step=step))


def chosen(checks: Sequence[Check], only: Collection[str] = (), skip: Collection[str] = ()) -> list[Check]:
    """Those of the checks that are wanted; raises RayhpcError for an id that does not exist."""
    wanted, unwanted = ([find(word, ALL) for word in words] for words in (only, skip))
    return [check for check in checks if (check in wanted or not wanted) and check not in unwanted]


def of(here: Here) -> list[Check]:
    """What this rank looks at."""
    meeting = here.meeting
    if meeting is None:
        return list(ALONE)
    own = (*((*OF_EACH_HOST, *BETWEEN_HOSTS) if meeting.first else ()), *OF_EACH_RANK)
    return [*own, *((*OF_THE_JOB, *OF_A_LAUNCH) if meeting.leads else ())]


def page() -> str:
    """docs/checks.md, made from the list."""
    groups = (
        ("The launch", OF_A_LAUNCH),
        ("Between the hosts", BETWEEN_HOSTS),
        ("The job", OF_THE_JOB),
        ("Each host", OF_EACH_HOST),
        ("Each rank", OF_EACH_RANK),
        ("A running cluster", INSIDE),
    )
    parts = [_PREFACE]
    for heading, checks in groups:
        parts.append(f"## {heading}")
        parts += [f"### {name(check)}\n\n{title(check)}\n\n{explanation(check)}" for check in checks]
    return "\n\n".join(parts) + "\n"


_PREFACE = """\
# The checks of `rayhpc doctor`

Made from the list in `rayhpc/doctor/catalog.py` by `rayhpc doctor explain --all`. What each line says is well; where it
is not, there is a finding. [doctor.md](doctor.md) is how to run them."""
