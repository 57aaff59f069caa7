"""The documents that KubeRay gets: options become dictionaries, dictionaries YAML in a fixed order. Pure."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from rayhpc.kube.options import ClusterOptions, Group, JobOptions, Size, refused

API = "ray.io/v1"
# By these labels the login side finds its own: whose cluster it is, and what made it.
OWNER, MAKER = "ray.io/user", "app.kubernetes.io/managed-by"
_QUEUE = "kueue.x-k8s.io/queue-name"
_MIB = 2**20
_SHM = {"name": "shm", "mountPath": "/dev/shm"}
_USERS = 100  # the group of the account `ray` in Ray's images
Document = dict[str, Any]


def cluster(options: ClusterOptions) -> Document:
    """A RayCluster."""
    return {"apiVersion": API, "kind": "RayCluster", "metadata": _metadata(options), "spec": _spec(options)}


def job(options: ClusterOptions, wanted: JobOptions) -> Document:
    """A RayJob that waits, once its cluster is up, for the working directory and the command to be sent.

    KubeRay does not try again what was sent (backoffLimit 0 is the only one that it takes for InteractiveMode).
    """
    spec = {
        "submissionMode": "InteractiveMode",
        "entrypoint": wanted.command,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": wanted.ttl,
        "activeDeadlineSeconds": wanted.deadline,
        "backoffLimit": 0,
        "rayClusterSpec": _spec(options),
    }
    return {"apiVersion": API, "kind": "RayJob", "metadata": _metadata(options), "spec": spec}


def owner_label(account: str) -> str:
    """An account's name as a label takes it."""
    return re.sub(r"[^-A-Za-z0-9_.]", "-", account).strip("-_.")[:63].rstrip("-_.") or "unknown"


def _metadata(options: ClusterOptions) -> Document:
    queue = {_QUEUE: options.queue} if options.queue else {}
    namespace = {"namespace": options.namespace} if options.namespace else {}
    return {"name": options.name, **namespace, "labels": {**_labels(options), **queue}}


def _labels(options: ClusterOptions) -> dict[str, str]:
    return {MAKER: "rayhpc", OWNER: owner_label(options.owner)}


def _spec(options: ClusterOptions) -> Document:
    scaling = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"idleTimeoutSeconds": 60}}
    return {
        "rayVersion": options.ray_version,
        "authOptions": {"mode": "token"},
        **(scaling if options.autoscale else {}),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"dashboard-host": "0.0.0.0", **({"num-cpus": "0"} if options.head_no_tasks else {})},
            "template": _pod(options, "ray-head", options.head),
        },
        "workerGroupSpecs": [_group(options, group) for group in options.groups],
    }


def _group(options: ClusterOptions, group: Group) -> Document:
    return {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": max(group.most, 1),
        "rayStartParams": {},
        "template": _pod(options, "ray-worker", group.size),
    }


def _pod(options: ClusterOptions, name: str, size: Size) -> Document:
    access, (key, value) = options.access, size.accelerator
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    # Only the autoscaler, beside the head, talks to Kubernetes.
    unneeded = not options.autoscale and not access.service_account
    spec = {
        **({"serviceAccountName": access.service_account} if access.service_account else {}),
        **({"automountServiceAccountToken": False} if unneeded else {}),
        **({"imagePullSecrets": [{"name": access.pull_secret}]} if access.pull_secret else {}),
        **({"nodeSelector": {key: value}} if key else {}),
        **({"tolerations": tolerations} if size.gpus else {}),
        "securityContext": _pod_security(options.user_id),
        "containers": [_container(options, name, size)],
        "volumes": [_shm(size), *_volumes(access.claims)],
    }
    return {"metadata": {"labels": _labels(options)}, "spec": spec}


def _pod_security(user_id: int | None) -> Document:
    known = {"runAsNonRoot": True, "runAsUser": user_id, "fsGroup": _USERS} if user_id is not None else {}
    return {**known, "seccompProfile": {"type": "RuntimeDefault"}}


def _container(options: ClusterOptions, name: str, size: Size) -> Document:
    access = options.access
    amounts = _amounts(size)
    mounts = [{"name": f"claim-{n}", "mountPath": path} for n, (_, path) in enumerate(access.claims)]
    return {
        "name": name,
        "image": options.image,
        **({"env": [{"name": key, "value": value} for key, value in access.env]} if access.env else {}),
        **({"envFrom": [{"secretRef": {"name": secret}} for secret in access.env_from]} if access.env_from else {}),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [dict(_SHM), *mounts],
    }


def _amounts(size: Size) -> dict[str, str]:
    gpus = {"nvidia.com/gpu": str(size.gpus)} if size.gpus else {}
    return {"cpu": f"{math.ceil(size.cpus * 1000)}m", "memory": f"{size.memory // _MIB}Mi", **gpus}


def _shm(size: Size) -> Document:
    """The object store's place: Ray takes 30 % of the memory, and what is in it counts as the pod's memory."""
    limit = f"{size.memory // 2 // _MIB}Mi"
    return {"name": _SHM["name"], "emptyDir": {"medium": "Memory", "sizeLimit": limit}}


def _volumes(claims: Sequence[tuple[str, str]]) -> list[Document]:
    return [{"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": c}} for n, (c, _) in enumerate(claims)]


def with_values(document: Document, assignments: Sequence[str]) -> Document:
    """The document after each PATH=VALUE, as spec.workerGroupSpecs.0.replicas=3; raises RayhpcError."""
    changed = copy.deepcopy(document)
    for assignment in assignments:
        path, found, text = assignment.partition("=")
        if not found or not all(path.split(".")):
            raise refused("--set has no path or no value", assignment, "--set spec.rayVersion=2.60.0")
        try:
            _assign(changed, path.split("."), yaml.safe_load(text))
        except (TypeError, ValueError, IndexError, AttributeError, yaml.YAMLError) as error:
            step = "rayhpc kube manifest shows what there is; items of lists have numbers from 0 on"
            raise refused("--set leads nowhere", f"{assignment}: {error}", step) from error
    return changed


def _assign(place: Any, path: Sequence[str], value: Any) -> None:
    step: Any = int(path[0]) if isinstance(place, list) else path[0]
    if len(path) == 1:
        place[step] = value
    else:
        _assign(place.setdefault(step, {}) if isinstance(place, dict) else place[step], path[1:], value)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        """Equal parts are written out: YAML's anchors are hard to compare."""
        return True


def text(documents: Sequence[Document]) -> str:
    """The documents as YAML, keys in our order."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=120)
