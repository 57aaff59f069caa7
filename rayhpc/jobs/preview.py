"""What would be submitted, for people: the very script, and all that goes with it but the secrets."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from rayhpc.jobs.bundle import pack
from rayhpc.jobs.bundle.script import whole_script
from rayhpc.jobs.request import JobRequest
from rayhpc.user_input.secret_names import MASK, masked


def preview(request: JobRequest, secrets: Iterable[str] = ()) -> str:
    """The job in full; raises RayhpcError for file mounts that cannot be sent. secrets: others that nobody may see."""
    pack.check(request)
    lines = [
        *(f"resource     {name}: {value}" for name, value in request.resources.items() if value),
        *(f"environment  {name}={_shown(request, name)}" for name in request.environment),
        *(f"file mount   {shlex.quote(local)} -> {shlex.quote(remote)}" for local, remote in request.mounts),
        *(f"package      {shlex.quote(local)}" for local in request.packages),
        *(f"left out     {pattern}" for pattern in request.excludes),
        *([f"python       {request.py_executable}"] if request.py_executable else []),
        *([f"user         {request.user}"] if request.user else []),
        "--- the script",
        whole_script(request),
    ]
    return masked("\n".join(lines), [*(request.environment[name] for name in request.secrets), *secrets])


def _shown(request: JobRequest, name: str) -> str:
    return MASK if name in request.secrets else shlex.quote(request.environment[name])
