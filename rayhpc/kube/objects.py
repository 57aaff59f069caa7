"""The clusters and jobs that are there: found, described, scaled and deleted."""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from typing import Any

from rayhpc.kube import access, manifest
from rayhpc.kube.kubectl import Kubectl, NotFound
from rayhpc.kube.options import refused

Object = dict[str, Any]
# What KubeRay calls the group of the head's pod.
HEAD = "headgroup"


def mine(kubectl: Kubectl, owner: str) -> list[Object]:
    """The objects with an account's label, without one those of all; a job's cluster is part of the job."""
    label = [f"{manifest.OWNER}={manifest.owner_label(owner)}"] if owner else []
    words = ["-l", ",".join([*label, f"{manifest.MAKER}=rayhpc"])] if owner else []
    found = kubectl.items("rayclusters.ray.io,rayjobs.ray.io", *words)
    return [each for each in found if not each["metadata"].get("ownerReferences")]


def one(kubectl: Kubectl, name: str) -> Object:
    """The cluster of this name, else the job; raises RayhpcError where there is none."""
    try:
        found: Object = kubectl.json("get", "raycluster", name)
    except NotFound:
        found = kubectl.json("get", "rayjob", name)
    return found


def cluster(kubectl: Kubectl, name: str) -> Object:
    """A cluster by its name, or by its job's; the job itself while it has none. Raises RayhpcError."""
    found = one(kubectl, name)
    return cluster_of(kubectl, found) or found


def cluster_of(kubectl: Kubectl, found: Object) -> Object | None:
    """The RayCluster that an object is, or that a job has now; raises RayhpcError."""
    if found["kind"] == "RayCluster":
        return found
    made = found.get("status", {}).get("rayClusterName", "")
    return kubectl.named("raycluster", [made]).get(made) if made else None


def name(found: Object) -> str:
    """An object's name."""
    return str(found["metadata"]["name"])


def state(found: Object) -> str:
    """What the operator says of it."""
    status = found.get("status", {})
    if found["kind"] == "RayJob":
        return " ".join(filter(None, (status.get("jobDeploymentStatus"), status.get("jobStatus")))) or "waits"
    return str(status.get("state") or "waits")


def made_at(found: Object) -> float:
    """When it was made, in Unix seconds by the server's clock."""
    return calendar.timegm(time.strptime(found["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ"))


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
    place = _numbered(group, groups)
    found, path = groups[place], f"/spec/workerGroupSpecs/{place}"
    wanted = {
        "replicas": count,
        "minReplicas": min(count, found["minReplicas"]),
        "maxReplicas": max(count, found["maxReplicas"], 1),
    }
    return [{"op": "add", "path": f"{path}/{key}", "value": value} for key, value in wanted.items()]


def _numbered(group: str, values: Sequence[Object]) -> int:
    """The place of a group among a cluster's; raises RayhpcError, naming what there is."""
    known = [str(each["groupName"]) for each in values]
    if group not in known and (group or len(known) != 1):
        raise refused("which group is not said" if not group else f"there is no group {group}",
                      f"groups: {', '.join(known)}", "rayhpc kube scale NAME GROUP=NUMBER")  # fmt: skip
    return known.index(group) if group else 0


def remove(kubectl: Kubectl, wanted: Sequence[Object]) -> set[str]:
    """Delete objects; the ids that their clusters have in the registry. Raises RayhpcError."""
    ids = set()
    for each in wanted:
        made = cluster_of(kubectl, each)
        ids |= {access.entry_id(made)} if made else set()
        kubectl.run("delete", each["kind"].lower(), name(each), "--wait=false", "--ignore-not-found")
    return ids
