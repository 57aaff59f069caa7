"""Where a head's start goes: a head alone under settings that may spare something: python -m benchmarks.head [TURNS].

For each setting, alternating: the seconds until its raylet is alive in the node table, and the CPU seconds that all its
processes have used by then and three seconds later, when the last of them has started.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.contenders import CPUS, OBJECT_STORE, free_port
from benchmarks.report import Spread
from rayhpc import keeper, share
from rayhpc.bootstrap import allocation
from rayhpc.bootstrap.node import Node, start_arguments
from rayhpc.model import Assignment, Options

_RAY = "import ray.scripts.scripts as ray; ray.main()"
_ALIVE = """
import sys, time
from ray._raylet import GcsClient
client = None
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        client = client or GcsClient(address=sys.argv[1])
        if any(node.state == 0 for node in client.get_all_node_info(timeout=2).values()):
            break
    except Exception:
        pass
    time.sleep(0.02)
print("alive", flush=True)
"""
# What each setting changes: environment variables, further arguments.
SETTINGS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "as rayhpc": ({}, ()),
    "no log monitor": ({}, ("--include-log-monitor=false",)),
    "no metrics": ({"RAY_enable_metrics_collection": "0"}, ()),
    "two threads": ({"RAY_num_server_call_thread": "1", "RAY_gcs_server_rpc_server_thread_num": "1"}, ()),
    "plasma's sleep": ({"RAY_raylet_client_connect_timeout_milliseconds": "1000"}, ()),
}


def head(setting: str, directory: Path) -> tuple[float, float, float]:
    """Seconds until alive, CPU seconds then, CPU seconds three seconds later."""
    environ, arguments = SETTINGS[setting]
    options = Options(num_cpus=CPUS, object_store_memory=str(OBJECT_STORE), ray_arg=arguments)
    run_id = f"head-{secrets.token_hex(4)}"
    spec = share.divide([allocation.survey(0, options, None, "", os.environ)], options, run_id)[0]
    version = allocation.versions().ray
    own = Assignment(run_id, str(directory), spec.address, free_port(), 0, 1, version, spec, secrets.token_hex(32))
    node = Node(own, spec, options)
    node.prepare()
    try:
        return _timed(node, own, options, environ)
    finally:
        end_all()
        node.discard()


def _timed(node: Node, own: Assignment, options: Options, environ: dict[str, str]) -> tuple[float, float, float]:
    env = {**node.environment, **environ}
    words = start_arguments(own, node.spec, options, own.port, "")
    address = f"{own.head_address}:{own.port}"
    with node.log.open("wb") as log, subprocess.Popen(
        [sys.executable, "-c", _ALIVE, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env
    ) as watcher:  # fmt: skip
        assert watcher.stdin is not None and watcher.stdout is not None
        watcher.stdout.readline()
        began = time.monotonic()
        started = subprocess.Popen([sys.executable, "-c", _RAY, *words], env=env, stdout=log, stderr=log)
        watcher.stdin.write(b"\n")
        watcher.stdin.flush()
        watcher.stdout.readline()
        seconds = time.monotonic() - began
        early = _cpu(started.pid)
        time.sleep(3.0)
        return seconds, early, _cpu(started.pid)


def _cpu(root: int) -> float:
    return processes.cpu(Path("/proc"), [root, *keeper.descendants(root)], children=True)


def end_all() -> None:
    """Kill everything below this process."""
    while left := keeper.descendants(os.getpid()):
        for pid in left:
            keeper.send(pid, signal.SIGKILL)
        time.sleep(0.02)
        list(keeper.reap())


def main() -> None:
    """A line for each setting."""
    keeper.become_subreaper()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="head-") as made:
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
            for name in SETTINGS:
                found[name].append(head(name, Path(made)))
    for name, figures in found.items():
        columns = [Spread.of(column) for column in zip(*figures, strict=True)]
        print(f"| {name} | {' | '.join(column.text(2) for column in columns if column)} |", flush=True)


if __name__ == "__main__":
    main()
