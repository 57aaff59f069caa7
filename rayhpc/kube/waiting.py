"""Why a pod, or a whole cluster, is not there yet: read from what Kubernetes says of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayhpc.errors import ExitCode, Fault, counted

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_STEPS = {
    "Unschedulable": "ask for less, or for other nodes: kubectl get nodes --show-labels",
    "image": "check --image and its tag; a private registry needs --image-pull-secret",
    "config": "check the names after --env-from, --pvc and --service-account",
    "CrashLoopBackOff": "correct the image or the command: kubectl logs {pod} --previous",
    "mount": "check the claim: kubectl get pvc",
}  # fmt: skip
_LOG_LINES = 8
Object = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A line of the table. why: empty for a pod that is on its way; crashed: the container whose last lines say why."""

    name: str
    cluster: str
    group: str
    phase: str
    ready: bool
    why: str = ""
    words: str = ""
    crashed: str = ""

    @property
    def state(self) -> str:
        """What lists show: ready, its phase, or what it waits for."""
        return "ready" if self.ready else self.phase


def pod(found: Object, events: Sequence[Object] = ()) -> Pod:
    """What a pod does, or waits for."""
    meta, status = found["metadata"], found.get("status", {})
    labels = meta.get("labels", {})
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    why, words, crashed = _why(status, conditions, [e for e in events if _of(e) == ("Pod", meta["name"])])
    ready = conditions.get("Ready", {}).get("status") == "True"
    return Pod(
        meta["name"], labels.get("ray.io/cluster", ""), labels.get("ray.io/group", ""),
        why or status.get("phase", "Pending"), ready, why, words, crashed,
    )  # fmt: skip


def _why(status: Object, conditions: Mapping[str, Object], events: Sequence[Object]) -> tuple[str, str, str]:
    """(reason, Kubernetes' own words, the container that crashed); empty for nothing wrong."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return scheduled.get("reason", "Unschedulable"), scheduled.get("message", ""), ""
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        waits = container.get("state", {}).get("waiting", {})
        reason, message = waits.get("reason", ""), waits.get("message", "")
        if reason == "CrashLoopBackOff":
            return reason, _ending(container) or message, container["name"]
        if reason in (*_PULL, *_CONFIG):
            return reason, message, ""
    if status.get("phase") == "Failed":
        return status.get("reason") or "Failed", status.get("message", ""), ""
    mounts = [event for event in events if event.get("reason") in ("FailedMount", "FailedAttachVolume")]
    return ("FailedMount", mounts[-1].get("message", ""), "") if mounts else ("", "", "")


def _ending(container: Object) -> str:
    """'OOMKilled, exit code 137', of the attempt before."""
    last = container.get("lastState", {}).get("terminated", {})
    return f"{last.get('reason', 'ended')}, exit code {last.get('exitCode')}" if last else ""


def pod_fault(waiting: Pod, log: str = "", others: int = 0) -> Fault:
    """The error of a pod that waits; log: the last lines of what crashed; others: so many wait for the same reason."""
    kind = {**dict.fromkeys(_PULL, "image"), **dict.fromkeys(_CONFIG, "config"), "FailedMount": "mount"}
    step = _STEPS.get(kind.get(waiting.why, waiting.why), "kubectl describe pod {pod}")
    shown = [line for line in log.splitlines() if line.strip()][-_LOG_LINES:]
    more = [f"and {counted(others, 'more pod')} of group {waiting.group}"] if others else []
    evidence = tuple(filter(None, (waiting.words, *shown, *more)))
    return Fault(
        f"a pod does not start: {waiting.why}", ExitCode.NOT_READY, f"pod {waiting.name}", evidence,
        step.format(pod=waiting.name),
    )  # fmt: skip


def cluster_faults(names: Container[str], events: Iterable[Object]) -> list[Fault]:
    """What the operator could not do, in its own words: a quota, a webhook, a permission of its own.

    names: of the job and its cluster, or of the cluster alone.
    """
    faults = {}
    for event in events:
        kind, involved = _of(event)
        if kind in ("RayCluster", "RayJob") and involved in names and event.get("type") == "Warning":
            quota = "exceeded quota" in event.get("message", "")
            what = "the namespace's quota has no room" if quota else f"the operator reports {event.get('reason')}"
            see = f"kubectl describe {kind} {involved}"
            step = "kubectl describe quota; ask for less, or delete others" if quota else see
            words = _stable(event.get("message", ""))
            faults[what, words] = Fault(what, ExitCode.NOT_READY, f"{kind} {involved}", (words,), step)
    return list(faults.values())


def _stable(message: str) -> str:
    """A message without the names that the operator makes up for each try: one fault is told once."""
    return re.sub(r'(pods? "?[-a-z0-9]+-)[a-z0-9]{5}("| )', r"\1*\2", message, flags=re.IGNORECASE)


def no_operator(found: Object, seconds: float) -> Fault:
    """The error of an object that nobody takes up, so many seconds after it was made."""
    return Fault(
        "no KubeRay operator answers", ExitCode.NOT_READY, f"{found['kind']} {found['metadata']['name']}",
        (f"it was made {seconds:.0f} s ago, and has neither a status nor pods",),
        "kubectl get pods -A | grep kuberay; an operator may watch other namespaces than this one",
    )  # fmt: skip


def _of(event: Object) -> tuple[str, str]:
    involved = event.get("involvedObject", {})
    return involved.get("kind", ""), involved.get("name", "")
