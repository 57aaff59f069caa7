"""Apply documents, and watch what becomes of them until the clusters are ready."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.kube import manifest, waiting
from rayhpc.kube.kubectl import Kubectl, NotFound
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


def apply(kubectl: Kubectl, documents: Sequence[Object]) -> None:
    """Make or change the objects; raises RayhpcError. The server checks each field: a misspelt one is refused."""
    kubectl.run(
        "apply", "--server-side", "--force-conflicts", "--field-manager=rayhpc", "--validate=strict", "-f", "-",
        text=manifest.text(documents),
    )  # fmt: skip


def wait(
    kubectl: Kubectl, names: Sequence[str], kind: str, seconds: float, show: Callable[[View, Iterable[Fault]], None]
) -> dict[str, Object]:
    """The RayClusters once all are ready, by the names of what made them; raises RayhpcError after so many seconds.

    show gets every look, and each fault once. A fault ends nothing: a node may come, an image may be pushed.
    """
    begun = time.monotonic()
    known: set[tuple[str, str]] = set()
    while True:
        objects, clusters = _objects(kubectl, names, kind)
        view = look(kubectl, objects, clusters, kind, time.monotonic() - begun)
        fresh = [fault for fault in view.faults if (fault.what, fault.where) not in known]
        known |= {(fault.what, fault.where) for fault in fresh}
        show(view, fresh)
        if view.ready:
            return clusters
        if time.monotonic() - begun > seconds:
            raise RayhpcError(_late(view, seconds))
        time.sleep(_LOOK_SECONDS)


def _late(view: View, seconds: float) -> Fault:
    waiting_for = ", ".join(name for name, state in view.states.items() if state != "ready")
    title = f"not ready after {seconds:g} s: {waiting_for}"
    if view.faults:
        first = view.faults[0]
        return replace(first, what=title, evidence=(first.what, *first.evidence))
    evidence = tuple(f"{pod.name}: {pod.phase}" for pod in view.pods if not pod.ready)
    step = f"rayhpc kube show {waiting_for.split(', ')[0]}; wait longer: --timeout; they stay until rayhpc kube delete"
    return Fault(title, ExitCode.NOT_READY, "kube", evidence, step)


def _objects(kubectl: Kubectl, names: Sequence[str], kind: str) -> tuple[dict[str, Object], dict[str, Object]]:
    """What was applied, and the RayCluster of each: its own, of a RayJob the one that the operator has made for it."""
    found = [kubectl.json("get", kind.lower(), name) for name in names]
    objects = {each["metadata"]["name"]: each for each in found}
    if kind == "RayCluster":
        return objects, objects
    clusters = {}
    for name, each in objects.items():
        made = each.get("status", {}).get("rayClusterName", "")
        with contextlib.suppress(NotFound):
            clusters[name] = kubectl.json("get", "raycluster", made) if made else {}
    return objects, clusters


def look(kubectl: Kubectl, objects: dict[str, Object], clusters: dict[str, Object], kind: str, age: float) -> View:
    """Pods, events and states as they are now; raises RayhpcError. age: seconds since the objects were applied."""
    with ThreadPoolExecutor(2) as pool:
        listed = pool.submit(kubectl.items, "pods", "-l", "ray.io/cluster")
        events = pool.submit(kubectl.items, "events").result()
        found = [waiting.pod(each, events) for each in listed.result()]
    names = {each["metadata"]["name"] for each in clusters.values() if each}
    pods = tuple(sorted((pod for pod in found if pod.cluster in names), key=lambda pod: pod.name))
    states = {name: _state(clusters.get(name) or {}) for name in objects}
    faults = [waiting.pod_fault(pod, _log(kubectl, pod)) for pod in pods if pod.why]
    recent = [event for event in events if _after(event, objects)]
    faults += [fault for name in objects for fault in waiting.cluster_faults(name, recent)]
    idle = [name for name, each in objects.items() if not each.get("status")]
    faults += [waiting.no_operator(name, kind, age) for name in idle if age > _SILENT_SECONDS and not pods]
    return View(states, pods, tuple(faults))


def _state(cluster: Object) -> str:
    return str(cluster.get("status", {}).get("state") or "waits")


def _after(event: Object, objects: dict[str, Object]) -> bool:
    """False for an event of an earlier object of the same name, which Kubernetes keeps for an hour."""
    seen = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "9"
    return bool(seen >= min((o["metadata"].get("creationTimestamp", "") for o in objects.values()), default=""))


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
