"""Where a head's start goes: a head alone under settings that may spare something: python -m benchmarks.head [TURNS].

For each setting, alternating: the seconds until its raylet is alive in the node table, the CPU seconds that all its
processes have used by then and three seconds later, when the last of them has started, their number, and their memory
in MB, shared pages divided.
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
from typing import Any

from benchmarks import processes
from benchmarks.contenders import CPUS, OBJECT_STORE, free_port
from benchmarks.floor import ray_start
from benchmarks.places import REPOSITORY
from benchmarks.report import Spread
from rayhpc import keeper, rayhaste, rayhook, share
from rayhpc.bootstrap import allocation
from rayhpc.bootstrap.node import Node, start_arguments
from rayhpc.model import Assignment, Options

_PROC = Path("/proc")
_ALIVE = """
import sys, time
from ray._raylet import GcsClient
client = last = None
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        client = client or GcsClient(address=sys.argv[1])
        if any(node.state == 0 for node in client.get_all_node_info(timeout=2).values()):
            print("alive", flush=True)
            break
    except Exception as error:  # refused until the GCS is there
        last = error
    time.sleep(0.02)
else:
    print(last, file=sys.stderr)
"""
_HOOK = "RAY_START_HOOK"
# What each setting changes: who is called before Ray starts anything (nobody: as Ray starts a head), environment
# variables, further arguments.
SETTINGS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "as rayhpc starts it": (rayhook.NAME, {}, ()),
    "as Ray starts it": ("", {}, ()),
    "no dashboard's process": (f"{__spec__.name}.without_dashboard", {}, ()),
    "agents behind": (f"{__spec__.name}.with_agents_behind", {}, ()),
    "log monitor as a thread": (f"{__spec__.name}.with_log_thread", {}, ()),
    "rayhpc, no log monitor": (rayhook.NAME, {}, ("--include-log-monitor=false",)),
    "rayhpc, one server thread": (
        rayhook.NAME,
        {"RAY_num_server_call_thread": "1", "RAY_gcs_server_rpc_server_thread_num": "1"},
        (),
    ),
    "rayhpc, plasma's sleep": (rayhook.NAME, {"RAY_raylet_client_connect_timeout_milliseconds": "1000"}, ()),
}


def without_dashboard(_: Any, __: bool) -> None:
    """One part of what rayhpc does, as Ray's start hook."""
    rayhaste.leave_out_dashboard()


def with_agents_behind(ray_params: Any, _: bool) -> None:
    """Another part of it."""
    rayhaste.leave_agents_behind(ray_params)


def with_log_thread(_: Any, __: bool) -> None:
    """The third part."""
    rayhaste.monitor_logs_here()


Figures = tuple[float, float, float, float, float]


def head(setting: str, directory: Path) -> Figures:
    """Seconds until alive, CPU seconds then and three seconds later, processes, MB."""
    hook, environ, arguments = SETTINGS[setting]
    options = Options(num_cpus=CPUS, object_store_memory=str(OBJECT_STORE), ray_arg=arguments)
    run_id = f"head-{secrets.token_hex(4)}"
    spec = share.divide([allocation.survey(0, options, None, "", os.environ)], options, run_id)[0]
    version = allocation.versions().ray
    own = Assignment(run_id, str(directory), spec.address, free_port(), 0, 1, version, spec, secrets.token_hex(32))
    node = Node(own, spec, options)
    node.prepare()
    try:
        # Hooks of this file must be found by `ray start`, which does not look into the working directory.
        env = {**node.environment, **environ, "PYTHONPATH": str(REPOSITORY), _HOOK: hook}
        if not hook:
            del env[_HOOK]
        return _timed(node, own, options, env)
    finally:
        end_all()
        node.discard()


def _timed(node: Node, own: Assignment, options: Options, env: dict[str, str]) -> Figures:
    words = start_arguments(own, node.spec, options, own.port, "")
    address = f"{own.head_address}:{own.port}"
    with node.log.open("ab") as log, subprocess.Popen(
        [sys.executable, "-c", _ALIVE, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env
    ) as watcher:  # fmt: skip
        assert watcher.stdin is not None and watcher.stdout is not None
        watcher.stdout.readline()
        began = time.monotonic()
        started = ray_start(words, node.log, env)
        watcher.stdin.write(b"\n")
        watcher.stdin.flush()
        if watcher.stdout.readline() != b"alive\n":
            raise TimeoutError(f"no head after a minute:\n{node.log.read_text()}")
        seconds = time.monotonic() - began
        early = processes.cpu(_PROC, family(started.pid), children=True)
        time.sleep(3.0)
        late = processes.usage(_PROC, family(started.pid))
        cpu = processes.cpu(_PROC, family(started.pid), children=True)
        return seconds, early, cpu, late.count, late.pss / 2**20


def family(root: int) -> list[int]:
    """A process and all below it."""
    return [root, *keeper.descendants(root)]


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
    found: dict[str, list[Figures]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="head-") as made:
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
            for name in SETTINGS:
                found[name].append(head(name, Path(made)))
    for name, figures in found.items():
        columns = [Spread.of(column) for column in zip(*figures, strict=True)]
        texts = [column.text(digits) for column, digits in zip(columns, (2, 2, 2, 0, 0), strict=True) if column]
        print(f"| {name} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
