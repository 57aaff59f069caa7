"""GRPO on all GPUs of a Ray cluster, in the shape that frameworks for RLHF have: groups of workers, one GPU each.

mpirun -np 2 python -m rayhpc.start --num-gpus 8 -m rayhpc.examples.grpo.train --gpus-per-node 8
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import rayhpc
from rayhpc.examples.grpo.workers import Worker
from rayhpc.rllib.driver import leave
from rayhpc.rllib.errors import EXIT_USAGE, UsageError, exit_code
from rayhpc.rllib.files import write_whole
from rayhpc.rllib.signals import Signals

WARM_UP, PROMPTS, GROUP, CHECKPOINT_EVERY, KEEP = 50, 64, 8, 25, 2
# Before the end of the job, for an iteration and its checkpoint; for the longest step of one.
MARGIN_S, LONGEST_STEP_S = 30.0, 300.0
# Its actors, rollouts and references; a worker's rank is its place among all.
Team = tuple[list[Any], list[Any], list[Any]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("grpo", description="Teach a tiny language model to add, by GRPO.")
    made.add_argument("--nodes", type=int, default=rayhpc.nodes(), help="nodes with GPUs (all)")
    made.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of each of them (8)")
    made.add_argument("--gpu-timeout", type=float, default=120.0, help="seconds until all must be there (120)")
    made.add_argument("--iterations", type=int, default=300, help="the most (300)")
    made.add_argument("--stop-reward", type=float, default=0.95, help="mean of the last 10 iterations (0.95)")
    made.add_argument("--output", type=Path, default=Path("grpo-results"), help="for checkpoints and rewards.csv")
    made.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    return made


def gate(nodes: int, gpus: int, seconds: float) -> list[PlacementGroup]:
    """A placement group on each node, of all its GPUs, once all are there; UsageError after so many seconds."""
    print(f"waiting for {nodes} x {gpus} GPUs, {seconds:g} s at most", flush=True)
    groups = [placement_group([{"GPU": 1}] * gpus, strategy="STRICT_PACK") for _ in range(nodes)]
    end = time.monotonic() + seconds
    if all(group.wait(max(0.1, end - time.monotonic())) for group in groups):
        return groups
    found = ", ".join(f"{node['NodeManagerHostname']} {node['Resources'].get('GPU', 0):g}" for node in ray.nodes())
    wanted = f"{nodes} nodes with {gpus} free GPUs each were not there within {seconds:g} s"
    raise UsageError(f"{wanted}; GPUs of the nodes: {found}; see --nodes, --gpus-per-node, --gpu-timeout")


def team(options: argparse.Namespace, seed: int) -> Team:
    """Half of the GPUs learn, an eighth keeps the first model, the rest draws answers; groups are on many nodes."""
    groups = gate(options.nodes, options.gpus_per_node, options.gpu_timeout)
    workers: list[Any] = []
    for bundle, group in itertools.product(range(options.gpus_per_node), groups):
        place = PlacementGroupSchedulingStrategy(group, bundle)
        started = ray.remote(Worker).options(num_cpus=0, num_gpus=1, scheduling_strategy=place)
        workers.append(started.remote(seed + len(workers)))
    size, actors, references = len(workers), len(workers) // 2, max(1, len(workers) // 8)
    rollouts = size - actors - references
    (where,) = results([workers[0].listen.remote(size)])
    members = [range(actors), [0, *range(actors, actors + rollouts)]]
    met = results([worker.meet.remote(rank, size, where, members) for rank, worker in enumerate(workers)])
    places = ", ".join(f"{met.count(place)} on {place}" for place in dict.fromkeys(met))
    print(f"actors: {actors}, rollouts: {rollouts}, references: {references}; {places}", flush=True)
    return workers[:actors], workers[actors:-references], workers[-references:]


def results(promises: Sequence[Any]) -> list[Any]:
    """What workers return; raises what they raise, or that one has ended, or that one takes too long."""
    return list(ray.get(list(promises), timeout=LONGEST_STEP_S))


def begin(made: Team, newest: Path | None) -> list[float]:
    """Give all workers the first model, or what the checkpoint has for them; the rewards so far."""
    actors, rollouts, references = made
    if newest:
        content = ray.put(newest.read_bytes())
        results([worker.restore.remote(content, "first") for worker in references])
        return list(results([worker.restore.remote(content, "model") for worker in (*actors, *rollouts)])[0])
    results([actors[0].begin.remote(WARM_UP)])
    results([worker.receive.remote(everybody=True) for worker in (*actors, *rollouts, *references)])
    return []


def iterate(made: Team) -> tuple[float, float]:
    """New weights to the rollouts, answers, the first model's opinion of them, an update; mean reward and distance."""
    actors, rollouts, references = made
    results([worker.receive.remote(everybody=False) for worker in (actors[0], *rollouts)])
    drawn = [rollout.generate.remote(max(1, PROMPTS // len(rollouts)), GROUP) for rollout in rollouts]
    batches = results([references[n % len(references)].judge.remote(batch) for n, batch in enumerate(drawn)])
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    shares = [{name: values[rank :: len(actors)] for name, values in whole.items()} for rank in range(len(actors))]
    distances = results([actor.learn.remote(share) for actor, share in zip(actors, shares, strict=True)])
    return float(whole["rewards"].mean()), sum(distances) / len(distances)


def save(made: Team, rewards: Sequence[float], output: Path) -> None:
    """A checkpoint, whole or absent, and the rewards as a table; the oldest checkpoints go."""
    (content,) = results([made[0][0].checkpoint.remote(rewards)])
    write_whole(output / f"checkpoint-{len(rewards):06}.pt", content)
    lines = ["iteration,reward\n", *(f"{number},{reward:.4f}\n" for number, reward in enumerate(rewards, 1))]
    write_whole(output / "rewards.csv", "".join(lines).encode())
    for old in sorted(output.glob("checkpoint-*.pt"))[:-KEEP]:
        old.unlink()


def why_stop(rewards: Sequence[float], options: argparse.Namespace, signals: Signals) -> str | None:
    """The reason to end before another iteration; None if there is none."""
    learned = len(rewards) >= 10 and sum(rewards[-10:]) / 10 >= options.stop_reward
    if signals.reason or learned or len(rewards) >= options.iterations:
        return signals.reason or "done"
    return "deadline" if rayhpc.time_left() < MARGIN_S else None


def train(options: argparse.Namespace, signals: Signals) -> str:
    """The whole training; the reason of its end. All that it has learned is then in a checkpoint."""
    options.output.mkdir(parents=True, exist_ok=True)
    newest = max(options.output.glob("checkpoint-*.pt"), default=None)
    if newest and not options.resume:
        raise UsageError(f"{newest} is there already: --resume goes on from it; or name another --output")
    made = team(options, seed=1000 * int(newest.stem.rpartition("-")[2]) if newest else 0)
    rewards = begin(made, newest)
    signals.check()
    signals.defer()  # from here on a signal lets the iteration under way end
    print(f"goes on from {newest}" if newest else "begins", flush=True)
    began = time.monotonic()
    while (reason := why_stop(rewards, options, signals)) is None:
        mean, distance = iterate(made)
        rewards.append(mean)
        if len(rewards) % 10 == 1:
            shown = f"reward {mean:.3f}  KL {distance:.3f}  {time.monotonic() - began:6.1f} s"
            print(f"iteration {len(rewards):4}  {shown}", flush=True)
        if len(rewards) % CHECKPOINT_EVERY == 0:
            save(made, rewards, options.output)
    save(made, rewards, options.output)
    print(f"ended ({reason}) after {len(rewards)} iterations", flush=True)
    return reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line: 0 done, 75 run me again, 130 Ctrl-C, 2 what was asked for is not there."""
    options, signals = parser().parse_args(arguments), Signals("grpo")
    try:
        if options.nodes * options.gpus_per_node < 3:
            raise UsageError("each of the three groups needs a GPU: ask for 3 at least")
        ray.init(log_to_driver=False)
        signals.install()  # Ray has set a handler of its own
        return exit_code(train(options, signals), 0.0, None)
    except UsageError as problem:
        signals.note(str(problem))
        return EXIT_USAGE
    except KeyboardInterrupt:
        return exit_code(signals.reason or "interrupt", 0.0, None)


if __name__ == "__main__":
    leave(main())
