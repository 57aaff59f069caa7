"""What a sweep holds for one training: a part of one host, beside which other trials train."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayhpc.rllib.cluster import Node
from rayhpc.rllib.deadline import number_in

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

# Ray gives each node a resource of one whole `node:IP`.
_A_LITTLE = 0.001


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of this host that Ray counts as taken by the trial, so its env runners ask for none."""

    cpus: float
    gpus: float

    def of(self, node: Node) -> Node:
        """The node as it is for this training."""
        return Node(node.node_id, node.host, int(self.cpus))

    def keep_here(self, config: AlgorithmConfig) -> None:
        """Let the env runners run on this host, on CPUs that the trial holds already."""
        import ray

        here = {f"node:{ray.util.get_node_ip_address()}": _A_LITTLE}
        resources = {**config.custom_resources_per_env_runner, **here}
        config.env_runners(num_cpus_per_env_runner=0, custom_resources_per_env_runner=resources)


def own_share() -> Share | None:
    """This process's, as a sweep tells its trials; None: the whole cluster is the training's. UsageError as ever."""
    cpus = number_in(os.environ, "RAYHPC_TRIAL_CPUS", "a number of CPUs")
    gpus = number_in(os.environ, "RAYHPC_TRIAL_GPUS", "a number of GPUs")
    return None if cpus is None else Share(cpus, gpus or 0.0)
