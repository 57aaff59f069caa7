"""Why a pod waits, and what the operator could not do, out of what Kubernetes says."""

from __future__ import annotations

from typing import Any

import pytest

from rayhpc.kube import waiting

NAME = "a-worker-1"


def pod(status: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": NAME, "labels": {"ray.io/cluster": "a", "ray.io/group": "workers"}}, "status": status}


def container(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    waits = {"name": "ray-worker", "state": {"waiting": {"reason": reason, "message": message}}, **more}
    return {"phase": "Pending", "containerStatuses": [waits]}


def event(kind: str, name: str, reason: str, message: str) -> dict[str, Any]:
    return {"involvedObject": {"kind": kind, "name": name}, "type": "Warning", "reason": reason, "message": message}


UNBOUND = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."
KILLED = {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}


@pytest.mark.parametrize(
    ("status", "events", "why", "words", "step"),
    [
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": UNBOUND}]},
         [], "Unschedulable", UNBOUND, "ask for less, or for other nodes"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
         [], "SchedulingGated", "", "kubectl describe pod"),
        (container("ErrImagePull", "unauthorized"), [], "ErrImagePull", "unauthorized", "--image-pull-secret"),
        (container("CreateContainerConfigError", 'secret "k" not found'),
         [], "CreateContainerConfigError", 'secret "k" not found', "--env-from"),
        (container("CrashLoopBackOff", "back-off 40s", **KILLED),
         [], "CrashLoopBackOff", "OOMKilled, exit code 137", "--previous"),
        ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
         [], "Evicted", "The node was low on resource: memory.", "kubectl describe pod"),
        (container("ContainerCreating"), [event("Pod", NAME, "FailedMount", "secret is missing")],
         "FailedMount", "secret is missing", "kubectl get pvc"),
        (container("ContainerCreating"), [event("Pod", "another", "FailedMount", "secret is missing")], "", "", ""),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, [], "", "", ""),
        ({}, [], "", "", ""),
    ],
)  # fmt: skip
def test_why_a_pod_waits(status: dict[str, Any], events: list[Any], why: str, words: str, step: str) -> None:
    found = waiting.pod(pod(status), events)
    assert (found.why, found.words) == (why, words)
    assert found.state == (why or ("ready" if status.get("phase") == "Running" else "Pending"))
    if why:
        fault = waiting.pod_fault(found)
        assert (fault.what, fault.where) == (f"a pod does not start: {why}", f"pod {NAME}")
        assert step in fault.next_step


def test_pods_that_wait_for_the_same_are_told_once_with_the_last_lines() -> None:
    crashed = waiting.pod(pod(container("CrashLoopBackOff", **KILLED)))
    log = "\n".join(f"line {number}" for number in range(20))
    evidence = waiting.pod_fault(crashed, log, others=49).evidence
    assert evidence == (
        "OOMKilled, exit code 137", *(f"line {number}" for number in range(12, 20)),
        "and 49 more pods of group workers",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "reason", "message", "what"),
    [
        ("RayCluster", "a", "FailedToCreateHeadPod", 'pods "a-head-x2z4q" is forbidden: exceeded quota: team',
         "the namespace's quota has no room"),
        ("RayCluster", "a", "FailedToCreateHeadPod", 'serviceaccount "me" not found',
         "the operator reports FailedToCreateHeadPod"),
        ("RayJob", "a", "InvalidRayJobSpec", "too long", "the operator reports InvalidRayJobSpec"),
        ("RayCluster", "a-b2c3d", "FailedToCreateHeadPod", "denied", "the operator reports FailedToCreateHeadPod"),
        ("RayCluster", "a-x2c3d", "FailedToCreateHeadPod", "denied", ""),
        ("Pod", "a", "Failed", "denied", ""),
    ],
)  # fmt: skip
def test_what_the_operator_could_not_do(kind: str, name: str, reason: str, message: str, what: str) -> None:
    again = message.replace("x2z4q", "77abc")
    events = [event(kind, name, reason, words) for words in (message, again)]
    faults = waiting.cluster_faults(["a", "a-b2c3d"], events)
    assert [fault.what for fault in faults] == ([what] if what else [])
    assert all(fault.where == f"{kind} {name}" and fault.next_step for fault in faults)
