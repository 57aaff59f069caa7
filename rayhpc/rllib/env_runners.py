"""Env runners, shared among the nodes of the cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

from rayhpc.rllib.cluster import Node
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.standard_error import without_lines

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

MIN_STEPS_PER_ENVIRONMENT = 32
FREE_CPUS_TIMEOUT_S = 60.0
# Ray says so of every env runner that it may restart. The driver holds the arguments as long as it runs.
FALSE_ALARM = "has constructor arguments in the object store and max_restarts > 0"


def most_env_runners(train_batch_size: int, envs_per_runner: int) -> int:
    """How many env runners a batch has work for: each of their environments takes at least 32 of its steps."""
    return max(1, train_batch_size // (envs_per_runner * MIN_STEPS_PER_ENVIRONMENT))


def env_runner_shares(cpus: Sequence[int], wanted: int | None, most: int, flag: str = "--num-env-runners") -> list[int]:
    """How many env runners each node gets, dealt out in turn; UsageError if they are more than the CPUs.

    `cpus` are those of each node, the driver's first: one of that node's is left to the learner, unless
    `wanted` asks for all. Without `wanted` there is one env runner per CPU that is left, at most `most`.
    """
    if wanted is not None and wanted > sum(cpus):
        raise UsageError(f"{flag} {wanted}: the cluster has {sum(cpus)} CPUs, and each takes one")
    learners = 1 if wanted is None or wanted < sum(cpus) else 0
    free = [max(0, number - learners * (node == 0)) for node, number in enumerate(cpus)]
    slots = sorted((turn, node == 0, node) for node, number in enumerate(free) for turn in range(number))
    taken = [node for _, _, node in slots[: most if wanted is None else wanted]]
    return [taken.count(node) for node in range(len(cpus))]


def place(config: AlgorithmConfig, nodes: Sequence[Node], shares: Sequence[int]) -> Algorithm:
    """Build the algorithm such that each node gets its share of the env runners; raises UsageError."""
    pairs = zip(nodes, shares, strict=True)
    spared = {node.node_id: node.cpus - share for node, share in pairs if node.cpus > share}
    with spare(spared) if any(shares) and spared else nullcontext():
        return built(config)


def built(config: AlgorithmConfig) -> Algorithm:
    """Build the algorithm, its env runners wherever Ray places them."""
    from ray.tune.trainable import trainable

    # RLlib makes an empty directory in ~/ray_results for every run, and no option moves it.
    with tempfile.TemporaryDirectory() as trainable.DEFAULT_STORAGE_PATH, without_lines(FALSE_ALARM):
        return config.build_algo()


@contextmanager
def spare(cpus: Mapping[str, int]) -> Iterator[None]:
    """Hold these CPUs (number per node id) for the block, so that actors go elsewhere; raises UsageError.

    Outside of Ray Tune RLlib cannot place its env runners, and Ray by itself fills the driver's node first.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(
        [{"CPU": number} for number in cpus.values()],
        bundle_label_selector=[{"ray.io/node-id": node_id} for node_id in cpus],
    )
    try:
        if not group.wait(timeout_seconds=FREE_CPUS_TIMEOUT_S):
            raise UsageError("the CPUs of this cluster are in use: wait for them, or take another cluster")
        yield
    finally:
        remove_placement_group(group)


def census(algorithm: Algorithm, nodes: Sequence[Node]) -> list[dict[str, object]]:
    """The nodes and how many env runners each has, as told by the env runners."""
    import ray

    def home(_: object) -> str:
        return str(ray.get_runtime_context().get_node_id())

    homes = algorithm.env_runner_group.foreach_env_runner(home, local_env_runner=False)
    return [{**asdict(node), "env_runners": homes.count(node.node_id)} for node in nodes]


def episode_returns_logger() -> Callable[..., None]:
    """A callback of the env runners (`on_sample_end`) that logs the return of every episode that has ended.

    RLlib's episode_return_mean covers one iteration's episodes only, and is a mean of env runners' means.
    """
    unfinished: dict[str, float] = {}

    def on_sample_end(*, samples: Sequence[SingleAgentEpisode], metrics_logger: MetricsLogger, **_: object) -> None:
        for part in samples:
            total = unfinished.pop(part.id_, 0.0) + float(part.get_return())
            if part.is_done:
                metrics_logger.log_value("episode_returns", total, reduce="item_series")
            else:
                unfinished[part.id_] = total

    return on_sample_end
