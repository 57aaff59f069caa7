"""Where trials run: what the cluster can hold, and Ray's placement of each process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayhpc.errors import RayhpcError, configuration
from rayhpc.sweep.plan import Resources, Sweep

_STRATEGIES = {"any": "PACK", "host": "STRICT_PACK", "all different": "STRICT_SPREAD"}
_GROUP_SECONDS = 0.05

Node = Mapping[str, float]


def nodes(ray: Any) -> list[Node]:
    """What each living node of the cluster has."""
    return [entry["Resources"] for entry in ray.nodes() if entry["Alive"]]


def wanted(resources: Resources) -> dict[str, float]:
    """The resources of one process under Ray's names."""
    found = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": float(resources.memory)}
    return {name: amount for name, amount in found.items() if amount}


def check(sweep: Sweep, cluster: Sequence[Node]) -> None:
    """Raises RayhpcError for a sweep of which the cluster can never hold what must run at once."""
    each, count = wanted(sweep.resources), processes_at_once(sweep)
    if room(sweep, cluster) >= 1:
        return
    asked = ", ".join(f"{amount:g} {name}" for name, amount in each.items())
    largest = max(cluster, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
    has = ", ".join(f"{largest.get(name, 0):g} {name}" for name in each)
    raise configuration(
        f"no room for {count} process{'es' if count > 1 else ''} with {asked} each, nodes: {sweep.nodes}",
        f"the cluster has {len(cluster)} nodes; the largest has {has}",
        next_step="ask for less (`resources`, tune.cpus, tune.gpus) or for a larger allocation; nothing was started",
    )


def processes_at_once(sweep: Sweep) -> int:
    """How many processes start together or not at all."""
    return sweep.processes * (sweep.trials if sweep.concurrent else 1)


def room(sweep: Sweep, cluster: Sequence[Node]) -> int:
    """How many groups of processes that start together the empty cluster holds."""
    fitting = sorted((_fits(wanted(sweep.resources), node) for node in cluster), reverse=True)
    count = processes_at_once(sweep)
    if count == 1 or sweep.nodes == "any":
        return sum(fitting) // count
    if sweep.nodes == "host":
        return sum(number // count for number in fitting)
    return _different(fitting, count)


def _fits(each: Mapping[str, float], node: Node) -> int:
    """How many processes a node holds; without any resource as many as it has CPUs."""
    shares = [int(node.get(name, 0.0) // amount) for name, amount in each.items()]
    return min(shares) if shares else max(1, int(node.get("CPU", 1)))


def _different(fitting: list[int], count: int) -> int:
    """How many groups there are of which each has its processes on different nodes."""
    groups, left = 0, list(fitting)
    while len(left) >= count and sorted(left, reverse=True)[count - 1] > 0:
        left.sort(reverse=True)
        left[:count] = [number - 1 for number in left[:count]]
        groups += 1
    return groups


@dataclass
class Group:
    """Room for processes that start together: Ray's placement group, or none where there is one process alone."""

    handle: Any = None

    def ready(self) -> bool:
        """True once all of them have their room."""
        return self.handle is None or bool(self.handle.wait(_GROUP_SECONDS))

    def options(self, resources: Resources, place: int) -> dict[str, Any]:
        """Ray's options for the process at a place of the group."""
        options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": 0}
        if resources.memory:
            options["memory"] = resources.memory
        if self.handle is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.handle, place)
        return options

    def release(self) -> None:
        """Give the room back."""
        if self.handle is not None:
            from ray.util import remove_placement_group

            remove_placement_group(self.handle)


def group(sweep: Sweep) -> Group:
    """Ask for room for the processes that start together."""
    count = processes_at_once(sweep)
    if count == 1:
        return Group()
    from ray.util import placement_group

    return Group(placement_group([wanted(sweep.resources)] * count, _STRATEGIES[sweep.nodes]))


def lost(error: BaseException) -> bool:
    """Whether a trial ended since its node or its worker did, and not by itself."""
    from ray import exceptions

    own = (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError)
    return isinstance(error, exceptions.RayError) and not isinstance(error, own)


def refused(error: BaseException) -> RayhpcError:
    """The error of a trial whose process could not even begin: the environment that it asks for, its directory."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return configuration(
        "a trial's process cannot begin", *lines[-5:], next_step="check pip, py_modules and the sweep's directory"
    )
