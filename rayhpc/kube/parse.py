"""Command lines as documents: what people type for groups of workers, sizes and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayhpc import units
from rayhpc.kube import manifest, options, site
from rayhpc.kube.options import Access, ClusterOptions, Group, JobOptions, Size, refused
from rayhpc.user_input.secret_names import is_secret

_GROUP = "--group NAME=KEY=VALUE,... with workers, cpus, memory, gpus, accelerator: gpu=workers=0:4,gpus=1,memory=32G"
_TRACKING = "MLFLOW_TRACKING_URI"
Document = dict[str, Any]


def documents(said: Mapping[str, Any], owner: str, job: JobOptions | None = None) -> list[Document]:
    """What KubeRay gets for a command line; raises RayhpcError for what cannot work. said: the options' values."""
    kind = "RayJob" if job else "RayCluster"
    base = site.read(said["base"], kind) if said["base"] else None
    limit = options.JOB_NAME_LIMIT if job else options.CLUSTER_NAME_LIMIT
    made = []
    for name in names(said["name"], said["clusters"]):
        wanted = _options({"has_groups": False, **said, **(site.fill(base, said) if base else {})}, name, owner)
        options.check(wanted, limit)
        ours = manifest.job(wanted, job) if job else manifest.cluster(wanted)
        if base:
            plain = ClusterOptions(name, wanted.image, wanted.ray_version, owner, (), user_id=wanted.user_id)
            defaults = manifest.job(plain, job) if job else manifest.cluster(plain)
            ours = site.changed(base, defaults, ours)
        made.append(manifest.with_values(ours, said["set"]))
    return made


def names(name: str, clusters: int) -> list[str]:
    """name, or name-0 to name-N-1."""
    return [f"{name}-{number}" for number in range(clusters)] if clusters else [name]


def _options(said: Mapping[str, Any], name: str, owner: str) -> ClusterOptions:
    image = said["image"] or ""
    return ClusterOptions(
        name=name, image=image, ray_version=options.ray_version(said["ray_version"], image), owner=owner,
        groups=_groups(said), head=Size(said["head_cpus"], _bytes(said["head_memory"], "--head-memory")),
        head_no_tasks=said["head_no_tasks"], access=_access(said), autoscale=said["autoscale"],
        namespace=said["namespace"], queue=said["queue"], user_id=options.user_of(image, said["user_id"]),
    )  # fmt: skip


def _groups(said: Mapping[str, Any]) -> tuple[Group, ...]:
    named = tuple(_group(text) for text in said["group"])
    if not said["workers"] and (named or said["has_groups"]):
        return named
    values = {"workers": said["workers"] or "1", "gpus": str(said["gpus"]), "cpus": str(said["cpus"])}
    return (_made("workers", {**values, "memory": said["memory"], "accelerator": said["accelerator"]}), *named)


def _group(text: str) -> Group:
    name, found, rest = text.partition("=")
    pairs = [item.partition("=") for item in rest.split(",")]
    keys = [key for key, _, _ in pairs]
    known = {"workers", "cpus", "memory", "gpus", "accelerator"}
    if not found or not {*keys} <= known or len({*keys}) < len(keys):
        raise refused("--group is not understood", text, _GROUP)
    return _made(name, {key: value for key, _, value in pairs})


def _made(name: str, values: Mapping[str, str]) -> Group:
    least, bounded, most = values.get("workers", "1").partition(":")
    key, _, value = values.get("accelerator", "").partition("=")
    try:
        numbers = (int(least), int(most or least), float(values.get("cpus", "2")), int(values.get("gpus", "0")))
    except ValueError as error:
        raise refused("a number of workers, CPUs or GPUs is none", f"group {name}: {error}", _GROUP) from error
    size = Size(numbers[2], _bytes(values.get("memory", "8G"), "--memory"), numbers[3], (key, value))
    return Group(name, numbers[0], numbers[1], bool(bounded), size)


def _bytes(text: str, flag: str) -> int:
    try:
        return units.size(text)
    except ValueError as error:
        raise refused(f"{flag} is no size", str(error), f"{flag} 32G") from error


def _access(said: Mapping[str, Any]) -> Access:
    tracking = ((_TRACKING, said["mlflow"]),) if said["mlflow"] else ()
    if said["mlflow"] and "://" not in said["mlflow"]:
        raise refused("--mlflow is no URL", said["mlflow"], "--mlflow http://mlflow.tracking.svc:5000")
    variables = tuple(_pair(text, "=", "--env NAME=VALUE") for text in said["env"])
    hidden = [name for name, _ in variables if is_secret(name) and name not in said["not_secret"]]
    if hidden:
        why = "who may read the cluster's document could read its value"
        step = "kubectl create secret generic NAME --from-env-file=.env, and --env-from NAME; else: --not-secret"
        raise refused(f"--env {hidden[0]} is a secret by its name", why, step)
    return Access(
        said["service_account"], said["image_pull_secret"], tuple(said["env_from"]),
        tuple(_pair(text, ":", "--pvc NAME:/PATH") for text in said["pvc"]),
        (*tracking, *variables),
    )  # fmt: skip


def _pair(text: str, divider: str, usage: str) -> tuple[str, str]:
    key, found, value = text.partition(divider)
    if not found:
        raise refused(f"{usage.split(maxsplit=1)[0]} has no {divider}", repr(key), usage)
    return key, value


def deadline(text: str) -> int:
    """Seconds of a duration; raises RayhpcError."""
    try:
        seconds = int(units.seconds(text))
    except ValueError as error:
        raise refused("--time is no duration", str(error), "--time 12:00:00") from error
    if seconds < 1:
        raise refused("--time leaves the job none", repr(text), "--time 12:00:00")
    return seconds
