"""What a cluster on Kubernetes shall be: typed values, and the combinations that cannot work, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rayhpc.errors import ExitCode, Fault, RayhpcError

# KubeRay refuses longer ones: it appends to them for services and pods (its MaxRayClusterNameLength, of a RayJob 47).
CLUSTER_NAME_LIMIT, JOB_NAME_LIMIT = 50, 47
OLDEST_RAY = (2, 52)  # the first with tokens that KubeRay can set
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_GIB = 2**30


@dataclass(frozen=True)
class Size:
    """What a pod gets, and no more. memory: bytes; accelerator: label of the nodes with the GPUs, key and value."""

    cpus: float = 2.0
    memory: int = 8 * _GIB
    gpus: int = 0
    accelerator: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Group:
    """Workers of one kind. most: where the autoscaler or `kube scale` may go; equal to least without --workers A:B."""

    name: str = "workers"
    least: int = 1
    most: int = 1
    bounded: bool = False
    size: Size = field(default_factory=Size)


@dataclass(frozen=True)
class Access:
    """What the pods may use: a service account, secrets by their names, volumes (claim, path), environment."""

    service_account: str = ""
    pull_secret: str = ""
    env_from: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ClusterOptions:
    """A RayCluster. user_id: the account in the image, None where only the image knows it; queue: of Kueue."""

    name: str
    image: str
    ray_version: str
    owner: str
    groups: tuple[Group, ...] = (Group(),)
    head: Size = field(default_factory=Size)
    head_no_tasks: bool = False
    access: Access = field(default_factory=Access)
    autoscale: bool = False
    namespace: str = ""
    queue: str = ""
    user_id: int | None = None


@dataclass(frozen=True)
class JobOptions:
    """A RayJob's own part. ttl: seconds that its cluster stays after the end; deadline: seconds in all."""

    command: str
    ttl: int = 60
    deadline: int = 86400


def refused(what: str, why: str, step: str) -> RayhpcError:
    """An option, or several, that cannot work."""
    return RayhpcError(Fault(what, ExitCode.USAGE, where="kube", evidence=(why,), next_step=step))


def ray_version(said: str, image: str) -> str:
    """Ray's version as --ray-version says it, else by the image's tag (2.60.0-py312-gpu); raises RayhpcError."""
    tag = image.rpartition("@")[0] or image
    tag = tag.rpartition("/")[2].partition(":")[2]
    match = _VERSION.fullmatch(said) if said else _VERSION.match(tag)
    if match is None:
        why = f"--ray-version is {said!r}" if said else f"the tag of the image {image} does not begin with a version"
        raise refused("the version of Ray is not known", why, "name the one in the image: --ray-version 2.60.0")
    if (int(match[1]), int(match[2])) < OLDEST_RAY:
        why = "token authentication needs Ray 2.52.0, and without it whoever reaches the pods runs code in them"
        raise refused(f"Ray {match[0]} is too old", why, "take a newer image")
    return match[0]


def user_of(image: str, said: int | None) -> int | None:
    """The account that the image's programs run as: 1000 in Ray's own; raises nothing."""
    repository = image.partition("@")[0].rpartition(":")[0] or image
    own = re.search(r"(^|/)rayproject/ray(-ml|-llm)?$", repository) is not None
    return said if said is not None else 1000 if own else None


def check(options: ClusterOptions, limit: int = CLUSTER_NAME_LIMIT) -> None:
    """Raises RayhpcError for what Kubernetes or KubeRay would refuse, or would wait for in silence."""
    _check_names(options, limit)
    names = [group.name for group in options.groups]
    if len(set(names)) < len(names):
        raise refused("two groups have one name", ", ".join(names), "give each --group its own")
    for group in options.groups:
        _check_group(group, options.autoscale)
    _check_size("the head", options.head, "--head-cpus, --head-memory")
    none = options.groups and not any(group.least for group in options.groups)  # or the site's file has some
    if options.head_no_tasks and not options.autoscale and none:
        why = "--head-no-tasks, and no worker: all tasks would wait"
        raise refused("nothing in the cluster could run a task", why, "--workers 1, or --workers 0:8 --autoscale")
    if options.queue and options.autoscale:
        why = f"{options.queue}: Kueue gives a cluster all of its pods at once, and refuses one that changes"
        raise refused("--queue and --autoscale exclude each other", why, "--queue NAME --workers 8")
    _check_access(options.access)
    if options.user_id == 0:
        why = "a process that leaves its container would be root of the node"
        raise refused("--user-id 0 is root", why, "name the image's ordinary account")


def _check_names(options: ClusterOptions, limit: int) -> None:
    if not _LABEL.fullmatch(options.name):
        why = f"{options.name!r}: services take small letters, digits and -, a letter first"
        raise refused("the name cannot be a service's", why, "--name sweep-a")
    if len(options.name) > limit:
        why = f"{options.name}: {len(options.name)} characters; KubeRay appends to it and allows {limit}"
        raise refused("the name is too long for a service", why, "choose a shorter --name")
    for flag, value, pattern in (("--namespace", options.namespace, _LABEL), ("--queue", options.queue, _OBJECT)):
        if value and not pattern.fullmatch(value):
            raise refused(f"{flag} is no name of an object", repr(value), f"correct {flag}")
    if not options.image or re.search(r"\s", options.image):
        raise refused("there is no image", repr(options.image), "--image rayproject/ray:2.60.0")


def _check_group(group: Group, autoscale: bool) -> None:
    where = f"group {group.name}"
    if not _LABEL.fullmatch(group.name) or len(group.name) > CLUSTER_NAME_LIMIT:
        raise refused("a group's name cannot be a pod's", repr(group.name), "--group gpu=workers=4,gpus=1")
    if group.least < 0 or group.most < group.least:
        why = f"{where}: {group.least}:{group.most}"
        raise refused("the least number of workers is above the most", why, "--workers MIN:MAX")
    if autoscale and not group.bounded:
        why = f"{where}: the autoscaler would have no room to grow"
        raise refused("--autoscale without a most", why, "--workers MIN:MAX, as 0:8")
    _check_size(where, group.size, "--cpus, --memory, --gpus")


def _check_size(where: str, size: Size, flags: str) -> None:
    # KubeRay gives Ray the limit rounded up, and a pod of a thousandth of a CPU never comes up.
    if size.cpus < 0.1 or size.memory < _GIB or size.gpus < 0:
        why = f"{where}: {size.cpus:g} CPUs, {size.memory / _GIB:g} GiB, {size.gpus} GPUs"
        raise refused("a Ray node needs 0.1 CPUs and 1 GiB at least", why, flags)
    key, value = size.accelerator
    if size.gpus and not key:
        why = f"{where}: pods would wait for any node that has GPUs, or get the dearest kind"
        step = "--accelerator KEY=VALUE: a label of the nodes (kubectl get nodes --show-labels)"
        raise refused("GPUs without a node selector", why, step)
    if key and not (_KEY.fullmatch(key) and _VALUE.fullmatch(value)):
        raise refused("--accelerator is no label of nodes", f"{where}: {key}={value}", "--accelerator KEY=VALUE")


def _check_access(access: Access) -> None:
    for flag, name in (
        ("--service-account", access.service_account), ("--image-pull-secret", access.pull_secret),
        *(("--env-from", name) for name in access.env_from), *(("--pvc", claim) for claim, _ in access.claims),
    ):  # fmt: skip
        if name and not _OBJECT.fullmatch(name):
            raise refused(f"{flag} is no name of an object", repr(name), f"correct {flag}")
    paths = [path for _, path in access.claims]
    if len(set(paths)) < len(paths) or any(not re.fullmatch(r"/[^:]+", path) or path == "/dev/shm" for path in paths):
        why = ", ".join(paths) + " (/dev/shm is the object store's)"
        raise refused("a volume needs an absolute path of its own", why, "--pvc NAME:/data")
    names = [name for name, _ in access.env]
    if bad := [name for name in names if not _VARIABLE.fullmatch(name) or names.count(name) > 1]:
        raise refused("--env is no variable, or is there twice", ", ".join(bad), "--env NAME=VALUE")
