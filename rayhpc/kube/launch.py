"""Apply documents, and watch what becomes of them until the clusters are ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.kube import manifest, objects, waiting
from rayhpc.kube.kubectl import Kubectl, Unreachable
from rayhpc.kube.waiting import Pod

_LOOK_SECONDS = 1.0
_SILENT_SECONDS = 3.0
_LOG_LINES = "8"
Object = dict[str, Any]


@dataclass(frozen=True)
class View:
    """What a look shows: each cluster's state, its pods, and all that stands in the way."""

    states: dict[str, str]
    pods: tuple[Pod, ...]
    faults: tuple[Fault, ...]

    @property
    def ready(self) -> bool:
        """True once every cluster is."""
        return all(state == "ready" for state in self.states.values())


def apply(kubectl: Kubectl, documents: Sequence[Object], owner: str) -> list[str]:
    """Make or change the objects; the names of those that were there. Raises RayhpcError.

    One of another owner is left alone. The server checks each field: a misspelt one is refused.
    """
    kind, names = documents[0]["kind"], [each["metadata"]["name"] for each in documents]
    there = kubectl.named(kind.lower(), names)
    label = manifest.owner_label(owner)
    others = {name: each["metadata"].get("labels", {}).get(manifest.OWNER, "nobody") for name, each in there.items()}
    if foreign := [f"{name}: label {manifest.OWNER}={who}" for name, who in others.items() if who != label]:
        raise RayhpcError(
            Fault(f"the name belongs to a {kind} of somebody else", ExitCode.CONFIGURATION,
                  f"namespace {kubectl.where()}", tuple(foreign), "choose another --name, or --namespace")
        )  # fmt: skip
    kubectl.run(
        "apply", "--server-side", "--force-conflicts", "--field-manager=rayhpc", "--validate=strict", "-f", "-",
        text=manifest.text(documents),
    )  # fmt: skip
    return list(there)


def wait(
    kubectl: Kubectl, names: Sequence[str], kind: str, seconds: float, show: Callable[[View, Iterable[Fault]], None]
) -> dict[str, Object]:
    """The RayClusters once all are ready, by the names of what made them; raises RayhpcError after so many seconds.

    show gets every look, and each fault once. A fault ends nothing: a node may come, an image may be pushed, the server
    may answer again.
    """
    begun = time.monotonic()
    known: set[tuple[str, str]] = set()
    while True:
        age = time.monotonic() - begun
        clusters: dict[str, Object] = {}
        try:
            applied, clusters = _objects(kubectl, names, kind)
            view = look(kubectl, applied, clusters, age)
        except Unreachable as error:
            view = View(dict.fromkeys(names, "not known"), (), (error.fault,))
        fresh = [fault for fault in view.faults if (fault.what, fault.where) not in known]
        known |= {(fault.what, fault.where) for fault in fresh}
        show(view, fresh)
        if view.ready:
            return clusters
        if age > seconds:
            raise RayhpcError(_late(view, seconds))
        time.sleep(_LOOK_SECONDS)


def _late(view: View, seconds: float) -> Fault:
    waiting_for = ", ".join(name for name, state in view.states.items() if state != "ready")
    title = f"not ready after {seconds:g} s: {waiting_for}"
    if view.faults:
        first = view.faults[0]
        return replace(first, what=title, evidence=(first.what, *first.evidence))
    evidence = tuple(f"{pod.name}: {pod.state}" for pod in view.pods if not pod.ready)
    step = f"rayhpc kube show {waiting_for.split(', ')[0]}; wait longer: --timeout; they stay until rayhpc kube delete"
    return Fault(title, ExitCode.NOT_READY, "kube", evidence, step)


def _objects(kubectl: Kubectl, names: Sequence[str], kind: str) -> tuple[dict[str, Object], dict[str, Object]]:
    """What was applied, and the RayCluster of each: its own, of a RayJob the one that the operator has made for it."""
    applied = kubectl.named(kind.lower(), names)
    if missing := [name for name in names if name not in applied]:
        raise RayhpcError(
            Fault(f"{', '.join(missing)} was deleted before it was ready", ExitCode.NOT_READY, kubectl.where(),
                  (f"kubectl get {kind.lower()} {missing[0]}: not found",), "rayhpc kube list; start it again")
        )  # fmt: skip
    if kind == "RayCluster":
        return applied, applied
    made = {name: each.get("status", {}).get("rayClusterName", "") for name, each in applied.items()}
    clusters = kubectl.named("raycluster", [each for each in made.values() if each])
    return applied, {name: clusters[cluster] for name, cluster in made.items() if cluster in clusters}


def look(kubectl: Kubectl, applied: dict[str, Object], clusters: dict[str, Object], age: float) -> View:
    """Pods, events and states as they are now; raises RayhpcError. age: seconds since the objects were applied."""
    with ThreadPoolExecutor(2) as pool:
        listed = pool.submit(kubectl.items, "pods", "-l", "ray.io/cluster")
        events = pool.submit(kubectl.items, "events").result()
        found = [waiting.pod(each, events) for each in listed.result()]
    names = {objects.name(each) for each in clusters.values()}
    pods = tuple(sorted((pod for pod in found if pod.cluster in names), key=lambda pod: pod.name))
    states = {name: objects.state(clusters[name]) if name in clusters else "waits" for name in applied}
    faults = _stuck(kubectl, pods)
    recent = [event for event in events if _after(event, applied)]
    coming = [name for name in applied if states[name] != "ready"]
    coming += [objects.name(clusters[name]) for name in coming if name in clusters]
    faults += waiting.cluster_faults(coming, recent)
    idle = [each for each in applied.values() if not each.get("status")]
    faults += [waiting.no_operator(each, age) for each in idle if age > _SILENT_SECONDS and not pods]
    return View(states, pods, tuple(faults))


def glance(kubectl: Kubectl, found: Object) -> View:
    """The same for one object that somebody has made at some time; raises RayhpcError."""
    cluster, name = objects.cluster_of(kubectl, found), objects.name(found)
    return look(kubectl, {name: found}, {name: cluster} if cluster else {}, time.time() - objects.made_at(found))


def _stuck(kubectl: Kubectl, pods: Iterable[Pod]) -> list[Fault]:
    """A fault for all pods of a kind that wait for the same reason: the first stands for them, with its log."""
    same: dict[tuple[str, str], list[Pod]] = {}
    for pod in pods:
        if pod.why:
            same.setdefault((pod.group, pod.why), []).append(pod)
    return [waiting.pod_fault(alike[0], _log(kubectl, alike[0]), len(alike) - 1) for alike in same.values()]


def _after(event: Object, applied: dict[str, Object]) -> bool:
    """False for an event of an earlier object of the same name, which Kubernetes keeps for an hour."""
    seen = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "9"
    return bool(seen >= min((o["metadata"].get("creationTimestamp", "") for o in applied.values()), default=""))


def _log(kubectl: Kubectl, pod: Pod) -> str:
    """The last lines of the attempt before, else of this one; the reason where nobody has any."""
    if not pod.crashed:
        return ""
    words = ("logs", pod.name, "-c", pod.crashed, "--tail", _LOG_LINES)
    try:
        return kubectl.run(*words, "--previous")
    except RayhpcError:
        try:
            return kubectl.run(*words)
        except RayhpcError as error:
            return f"its log cannot be read: {'; '.join(error.fault.evidence) or error.fault.what}"
