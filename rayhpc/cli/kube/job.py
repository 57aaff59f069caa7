"""`rayhpc kube job`: a command on a cluster that is made for it."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import click

from rayhpc.cli.base import INTERRUPTED, WithCommand, tell
from rayhpc.cli.job import follow_to_end
from rayhpc.cli.kube.board import watch
from rayhpc.cli.kube.options import CLUSTER, JOB, TIMEOUT, kubectl_of, with_options
from rayhpc.errors import RayhpcError
from rayhpc.jobs.find import Found
from rayhpc.jobs.targets import Choice
from rayhpc.kube import access, job, launch, parse
from rayhpc.kube.kubectl import Kubectl, check_access
from rayhpc.kube.options import JobOptions, refused
from rayhpc.records import registry


@click.command("job", cls=WithCommand)
@with_options(*CLUSTER, *JOB)
@click.option("--working-dir", default=".", metavar="DIR", show_default=True, help="Sent along, and where it starts.")
@TIMEOUT
def run_job(words: tuple[str, ...], ttl: int, time: str, working_dir: str, timeout: float, **said: Any) -> None:
    """Run COMMAND on a cluster that is made for it, and end with its code. A .py gets python.

    Ctrl-C detaches once the command runs; before, it takes the cluster back.
    """
    if not words:
        raise refused("there is no command", "nothing stands behind --", "rayhpc kube job --image IMAGE -- train.py")
    directory = Path(working_dir).resolve()
    if not directory.is_dir():
        raise refused("--working-dir is no directory", str(directory), "name the one that the job shall start in")
    name = f"{said['name']}-{uuid.uuid4().hex[:5]}"
    wanted = JobOptions(job.line(words), ttl, parse.deadline(time))
    documents = parse.documents({**said, "name": name, "clusters": 0}, registry.account(), wanted)
    kubectl = kubectl_of(said)
    check_access(kubectl, "rayjobs")
    launch.apply(kubectl, documents, registry.account())
    sent = _send(kubectl, name, wanted.command, directory, timeout)
    try:
        sys.exit(follow_to_end(sent, Choice()))
    except RayhpcError as error:
        raise job.ended_by_operator(kubectl, name) or error from error


def _send(kubectl: Kubectl, name: str, command: str, directory: Path, timeout: float) -> Found:
    """The job once it is sent. What was not sent is deleted: KubeRay waits for it without an end."""
    tell(f"job {name}: its cluster starts")
    try:
        entry = access.register(kubectl, watch(kubectl, [name], "RayJob", timeout)[name])
        return job.send(kubectl, entry, name, command, directory)
    except BaseException as error:
        job.withdraw(kubectl, name)
        tell(f"\njob {name} was not sent yet; it is deleted, its cluster too")
        if isinstance(error, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise
