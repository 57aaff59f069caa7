"""The driver that every contender runs: DIRECTORY NODES [SECONDS].

Its first task runs once the cluster has so many nodes, whoever was to wait for them. Then it sleeps for so many
seconds, lets go of Ray, and notes the time as its last act.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ray


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def task() -> int:
    """The least a driver can ask for."""
    return 7


def note(directory: Path, name: str) -> None:
    """Write the time to a file that appears with its content."""
    (directory / f".{name}").write_text(repr(time.time()))
    (directory / f".{name}").rename(directory / name)


def main() -> None:
    """Note first_task and driver_end."""
    directory, nodes, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    ray.init(log_to_driver=False)
    while sum(node["Alive"] for node in ray.nodes()) < nodes:
        time.sleep(0.02)
    assert ray.get(task.remote()) == 7
    note(directory, "first_task")
    time.sleep(seconds)
    ray.shutdown()
    note(directory, "driver_end")


if __name__ == "__main__":
    main()
