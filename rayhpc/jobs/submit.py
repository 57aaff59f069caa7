"""Hand jobs in: one, one to each cluster, or one to all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayhpc.errors import ExitCode, Fault, RayhpcError, counted
from rayhpc.jobs import find, ray_api, ray_client
from rayhpc.jobs.bundle import pack
from rayhpc.jobs.bundle.script import runtime_env, script
from rayhpc.jobs.find import Found
from rayhpc.jobs.ray_api import ACCOUNT, COMMAND, USER, Server
from rayhpc.jobs.ray_client import RayJobSubmission
from rayhpc.jobs.request import JobRequest


@dataclass(frozen=True)
class Pair:
    """A job and the cluster that shall run it."""

    server: Server
    request: JobRequest


def to_each(servers: Sequence[Server], request: JobRequest, commands: Sequence[str]) -> list[Pair]:
    """The first command for the first cluster and so on; raises RayhpcError if there are more jobs than clusters."""
    if len(commands) > len(servers):
        raise RayhpcError(
            Fault(
                f"{counted(len(commands), 'job')} for {counted(len(servers), 'cluster')}: nothing was submitted",
                ExitCode.USAGE,
                evidence=tuple(f"{server.name}  {server.url}" for server in servers),
                next_step="name as many jobs as there are clusters, or start more clusters",
            )
        )
    return [
        Pair(server, replace(request, entrypoint=command)) for server, command in zip(servers, commands, strict=False)
    ]


def check_before_submitting(pairs: Sequence[Pair]) -> None:
    """Raises RayhpcError, before anything is submitted, if one of the clusters or one of the files is not there."""
    for pair in pairs:
        pack.check(pair.request)
    for _, fault in find.each([pair.server for pair in pairs], ray_api.until_ready):
        if fault is not None:
            raise RayhpcError(fault)


def submit_job(pair: Pair, user: str) -> Found:
    """Hand a job in, which was checked before; the job as its cluster has it. Raises RayhpcError."""
    job_id = f"job-{uuid.uuid4().hex[:8]}"
    request = pair.request
    with pack.packed(request) as package:
        environment = runtime_env(request, package)
        shown = {USER: request.user or user, ACCOUNT: user, COMMAND: request.entrypoint}
        submission = RayJobSubmission(job_id, script(request), environment, request.resources, shown)
        ray_client.submit(pair.server, submission)
    return Found(pair.server, ray_api.one(pair.server, job_id))
