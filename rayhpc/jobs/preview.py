"""What would be submitted, for people: the very script, and all that goes with it but the secrets."""

from __future__ import annotations

import shlex

from rayhpc.jobs import bundle
from rayhpc.jobs.job_file.variables import MASK, masked
from rayhpc.jobs.request import JobRequest
from rayhpc.jobs.script import script


def preview(request: JobRequest) -> str:
    """The job in full; raises RayhpcError for file mounts that cannot be sent."""
    bundle.check(request)
    lines = [
        *(f"resource     {name}: {value}" for name, value in request.resources.items() if value),
        *(f"environment  {name}={_shown(request, name)}" for name in request.environment),
        *(f"file mount   {shlex.quote(local)} -> {shlex.quote(remote)}" for local, remote in request.mounts),
        "--- the script",
        script(request),
    ]
    return masked("\n".join(lines), (request.environment[name] for name in request.secrets))


def _shown(request: JobRequest, name: str) -> str:
    return MASK if name in request.secrets else shlex.quote(request.environment[name])
