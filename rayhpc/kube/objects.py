"""The clusters and jobs that are there: found, described, scaled and deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayhpc.kube import access, manifest
from rayhpc.kube.kubectl import Kubectl, NotFound
from rayhpc.kube.parse import numbered

Object = dict[str, Any]


def mine(kubectl: Kubectl, owner: str) -> list[Object]:
    """The objects with an account's label, without one those of all; a job's cluster is part of the job."""
    label = [f"{manifest.OWNER}={manifest.owner_label(owner)}"] if owner else []
    words = ["-l", ",".join([*label, f"{manifest.MAKER}=rayhpc"])] if owner else []
    found = kubectl.items("rayclusters.ray.io,rayjobs.ray.io", *words)
    return [each for each in found if not each["metadata"].get("ownerReferences")]


def meant(kubectl: Kubectl, names: Sequence[str]) -> list[Object]:
    """The objects with these names; raises RayhpcError for one that is not there."""
    return [_one(kubectl, name) for name in names]


def _one(kubectl: Kubectl, name: str) -> Object:
    try:
        found: Object = kubectl.json("get", "raycluster", name)
    except NotFound:
        found = kubectl.json("get", "rayjob", name)
    return found


def cluster(kubectl: Kubectl, name: str) -> Object:
    """A RayCluster by its name, or by its RayJob's; raises RayhpcError."""
    found = _one(kubectl, name)
    made = found.get("status", {}).get("rayClusterName", "")
    return kubectl.json("get", "raycluster", made) if found["kind"] == "RayJob" and made else found


def name(found: Object) -> str:
    """An object's name."""
    return str(found["metadata"]["name"])


def state(found: Object) -> str:
    """What the operator says of it."""
    status = found.get("status", {})
    if found["kind"] == "RayJob":
        return " ".join(filter(None, (status.get("jobDeploymentStatus"), status.get("jobStatus")))) or "waits"
    return str(status.get("state") or "waits")


def fields(found: Object) -> dict[str, str]:
    """What lists show of an object."""
    status, spec = found.get("status", {}), found["spec"]
    if found["kind"] == "RayJob":
        status, spec = status.get("rayClusterStatus") or {}, spec.get("rayClusterSpec") or {}
    containers = spec.get("headGroupSpec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    return {
        "name": name(found), "kind": found["kind"], "state": state(found),
        "workers": f"{status.get('readyWorkerReplicas', 0)}/{status.get('desiredWorkerReplicas', 0)}",
        "cpus": str(status.get("desiredCPU", "")), "gpus": str(status.get("desiredGPU", "")),
        "user": found["metadata"].get("labels", {}).get(manifest.OWNER, ""),
        "since": found["metadata"].get("creationTimestamp", ""), "image": containers[0].get("image", ""),
    }  # fmt: skip


def scaling(groups: Sequence[Object], group: str, count: int) -> list[Object]:
    """The JSON patch that sets a group's number of workers, its bounds moved where they are in the way."""
    place = numbered(group, groups)
    found, path = groups[place], f"/spec/workerGroupSpecs/{place}"
    wanted = {
        "replicas": count,
        "minReplicas": min(count, found["minReplicas"]),
        "maxReplicas": max(count, found["maxReplicas"], 1),
    }
    return [{"op": "add", "path": f"{path}/{key}", "value": value} for key, value in wanted.items()]


def remove(kubectl: Kubectl, wanted: Sequence[Object]) -> set[str]:
    """Delete objects; the ids that their clusters have in the registry. Raises RayhpcError."""
    ids = set()
    for each in wanted:
        made = cluster(kubectl, name(each))
        ids |= {access.entry_id(made)} if made["kind"] == "RayCluster" else set()
        kubectl.run("delete", each["kind"].lower(), name(each), "--wait=false")
    return ids
