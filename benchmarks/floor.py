"""The serial floor: DIRECTORY RANKS. A head alone, then one worker that joins it, then the driver.

Rank 0 runs the head and the driver, rank 1 the worker; they meet in files of the directory, without MPI, so that
nothing of ours runs while Ray works. The settings are those that rayhpc gives; floor.json has the seconds of each.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import CPUS, OBJECT_STORE, free_port
from benchmarks.places import HERE
from rayhpc import paths
from rayhpc.bootstrap import resources, share
from rayhpc.bootstrap.node import Node, start_arguments
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.model import Assignment, ClusterSpec, NodeSpec
from rayhpc.options import Options
from rayhpc.processes import environment, keeper
from rayhpc.processes.ray_start import COMMAND
from rayhpc.records import run_directory

_SECONDS = 120.0
_OPTIONS = Options(num_cpus=CPUS, object_store_memory=str(OBJECT_STORE))


def until(found: Callable[[], Any], what: str) -> Any:
    """The first true value; TimeoutError after two minutes."""
    end = time.monotonic() + _SECONDS
    while not (value := found()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)
    return value


def node_of(rank: int, run_id: str) -> NodeSpec:
    """This rank's node, as rayhpc would make it."""
    survey = resources.survey(rank, _OPTIONS, None, "", os.environ)
    return share.divide([survey], _OPTIONS, run_id)[0]


def start(node: Node, own: Assignment, port: int, address: str) -> subprocess.Popen[bytes]:
    """The `ray start` of this rank: the head at a port, a worker with the head's address."""
    return ray_start(start_arguments(own, node.spec, _OPTIONS, port, address), node.log, node.environment)


def ray_start(
    arguments: list[str], log: Path, env: dict[str, str], command: Sequence[str] = COMMAND
) -> subprocess.Popen[bytes]:
    """Ray's command as rayhpc runs it, without a keeper."""
    with log.open("ab") as output:
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env)
    assert started.stdin is not None
    started.stdin.write(json.dumps({"arguments": arguments, "environment": {}, "log": str(log)}).encode())
    started.stdin.close()
    return started


def lead(directory: Path, ranks: int) -> None:
    """The head, the worker's arrival, the driver: the seconds of each."""
    run_id = f"floor-{secrets.token_hex(4)}"
    spec, versions = node_of(0, run_id), resources.versions()
    own = Assignment(run_id, str(directory), spec.address, 0, ranks, versions.ray, spec, secrets.token_hex(32))
    cluster = ClusterSpec(run_id, str(directory), free_port(), 0, ranks, ranks, versions, "", "", 0.0, (spec,))
    node = Node(own, spec, _OPTIONS)
    node.prepare()
    try:
        run_directory.write_json(directory / "floor.json", _seconds(directory, node, own, cluster))
    finally:
        end_all(node)


def _seconds(directory: Path, node: Node, own: Assignment, cluster: ClusterSpec) -> dict[str, float]:
    seconds = {}
    began = time.time()
    start(node, own, cluster.port, "")
    table = NodeTable(cluster.address, paths.node_table(node.spec.temp_dir))
    table.start()
    until(lambda: alive(table) >= 1, "the head")
    seconds["head"] = time.time() - began
    if own.nodes > 1:
        meeting = {
            "address": cluster.address,
            "token": own.token,
            "run_id": own.run_id,
            "ray": own.ray,
        }
        run_directory.write_json(directory / "meeting.json", meeting)
        until(lambda: alive(table) >= 2, "the worker")
        seconds["worker"] = time.time() - float((directory / "worker_started").read_text())
    table.close()
    began = time.time()
    command = [sys.executable, str(HERE / "driver.py"), str(directory), str(own.nodes), "0"]
    subprocess.run(command, env=environment.of_driver(os.environ, own, cluster), check=True)
    seconds["driver"] = float((directory / "first_task").read_text()) - began
    return seconds


def alive(table: NodeTable) -> int:
    """Living nodes by the table's last answer."""
    return len(table.nodes or ())


def follow(directory: Path) -> None:
    """The worker, once the head is alive; it ends with the run."""
    until((directory / "meeting.json").exists, "the head's address")
    meeting = json.loads((directory / "meeting.json").read_text())
    spec = node_of(1, meeting["run_id"])
    head = meeting["address"].rpartition(":")[0]
    own = Assignment(meeting["run_id"], str(directory), head, 0, 2, meeting["ray"], spec, meeting["token"])
    node = Node(own, spec, _OPTIONS)
    node.prepare()
    try:
        (directory / ".worker").write_text(repr(time.time()))
        (directory / ".worker").rename(directory / "worker_started")
        start(node, own, 0, meeting["address"])
        until((directory / "floor.json").exists, "the end")
    finally:
        end_all(node)


def end_all(node: Node) -> None:
    """Kill everything below this process, keepers as well, then remove the node's directory."""
    until(_none_left, "the end of what was started here")
    shutil.rmtree(node.spec.temp_dir)


def _none_left() -> bool:
    list(keeper.reap())
    left = keeper.descendants(os.getpid())
    for pid in left:
        keeper.send(pid, signal.SIGKILL)
    return not left


def main() -> None:
    """One of at most two ranks."""
    directory, ranks = Path(sys.argv[1]), int(sys.argv[2])
    keeper.become_subreaper()
    if int(os.environ.get("SLURM_PROCID", os.environ.get("PMI_RANK", "0"))) == 0:
        lead(directory, ranks)
    else:
        follow(directory)


if __name__ == "__main__":
    main()
