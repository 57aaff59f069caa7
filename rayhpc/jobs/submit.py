"""Hand jobs in: one, one to each cluster, or one to all."""

from __future__ import annotations

import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rayhpc import rayjobs
from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration, counted
from rayhpc.jobs import find
from rayhpc.jobs.script import SECRETS, member, script, secrets
from rayhpc.model import JobRequest
from rayhpc.rayjobs import Server, Submission


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


def check(pairs: Sequence[Pair]) -> None:
    """Raises RayhpcError, before anything is submitted, if one of the clusters or one of the files is not there."""
    for pair in pairs:
        for local, _ in pair.request.mounts:
            if not Path(local).expanduser().exists():
                raise configuration(
                    f"{local}, to be sent along, is not there", next_step="correct the path: nothing was submitted"
                )
    for _, fault in find.each([pair.server for pair in pairs], rayjobs.probe):
        if fault is not None:
            raise RayhpcError(fault)


def submit(pair: Pair, user: str) -> str:
    """Hand a job in; its id. Raises RayhpcError."""
    job_id = f"job-{uuid.uuid4().hex[:8]}"
    request = pair.request
    open_to_all = {name: value for name, value in request.environment.items() if name not in request.secrets}
    with _package(request) as package:
        submission = Submission(
            job_id, script(request), package, open_to_all, request.resources, user, request.entrypoint
        )
        rayjobs.submit(pair.server, submission)
    return job_id


@contextmanager
def _package(request: JobRequest) -> Iterator[str]:
    """A directory, its owner's alone, with the secrets and an archive for each mount: they keep modes and links."""
    if not (request.mounts or request.secrets):
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="rayhpc-") as directory:
        if request.secrets:
            Path(directory, SECRETS).write_text(secrets(request))
        for number, (local, remote) in enumerate(request.mounts):
            with tarfile.open(Path(directory, member(number)), "w") as archive:
                archive.add(Path(local).expanduser().resolve(), arcname=Path(remote).name)
        yield directory
