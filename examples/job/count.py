"""What job.yaml runs: a task on every node says that it has what the file gives to the job."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@ray.remote(num_cpus=0)
def report(rounds: int) -> str:
    """One line about the node this runs on."""
    key = os.environ["WANDB_API_KEY"]
    return f"{platform.node()}: {rounds} rounds of {os.environ['NAME']}, a key of {len(key)} characters"


def main() -> None:
    """Read the settings, ask every node."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path)
    rounds = json.loads(parser.parse_args().settings.read_text())["rounds"]
    ray.init(log_to_driver=False)
    nodes = [row["NodeID"] for row in ray.nodes() if row["Alive"]]
    pinned = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    lines = ray.get([report.options(scheduling_strategy=it).remote(rounds) for it in pinned])
    print(f"started {os.environ['STARTED']}", *lines, f"{len(nodes)} nodes", sep="\n")


if __name__ == "__main__":
    main()
