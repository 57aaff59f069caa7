"""A RayJob from this side: its command is sent to its cluster, and after that the operator answers for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.jobs import ray_api, ray_client, targets
from rayhpc.jobs.find import Found
from rayhpc.jobs.ray_client import RayJobSubmission
from rayhpc.jobs.request import command_line
from rayhpc.kube.kubectl import Kubectl
from rayhpc.model import ClusterEntry
from rayhpc.records import registry


def line(words: Sequence[str]) -> str:
    """A command for the shell; a .py gets python."""
    return command_line([*(["python"] if words[0].endswith(".py") else []), *words])


def send(kubectl: Kubectl, entry: ClusterEntry, name: str, command: str, directory: Path) -> Found:
    """The job, handed in with its directory; raises RayhpcError."""
    server = targets.with_job_api(entry)
    shown = {ray_api.USER: registry.account(), ray_api.COMMAND: command}
    ray_client.submit(server, RayJobSubmission(name, command, {"working_dir": str(directory)}, {}, shown))
    # From now on the operator follows the job: its end, its time, its cluster.
    kubectl.run("patch", "rayjob", name, "--type=merge", "-p", json.dumps({"spec": {"jobId": name}}))
    return Found(server, ray_api.one(server, name))


def withdraw(kubectl: Kubectl, name: str) -> None:
    """Delete a job that was not sent; raises RayhpcError."""
    kubectl.run("delete", "rayjob", name, "--wait=false", "--ignore-not-found")


def ended_by_operator(kubectl: Kubectl, name: str) -> RayhpcError | None:
    """Why a job is over whose cluster answers no more, as the operator says; None where it has not ended the job."""
    found = kubectl.named("rayjob", [name]).get(name)
    if found is None:
        return RayhpcError(Fault(f"job {name} was deleted", ExitCode.HEAD_LOST, "", (), "rayhpc kube list"))
    status = found.get("status", {})
    if status.get("jobDeploymentStatus") not in ("Failed", "Complete"):
        return None
    evidence = tuple(filter(None, (status.get("reason"), status.get("message"))))
    late = status.get("reason") == "DeadlineExceeded"
    return RayhpcError(
        Fault(f"job {name} has used up its time" if late else f"the operator has ended job {name}", ExitCode.HEAD_LOST,
              "", evidence, "give it more: --time" if late else f"kubectl describe rayjob {name}")
    )  # fmt: skip
