"""Where a start goes: a head alone and a driver, under settings that may spare something: benchmarks.head [TURNS].

For each setting, alternating: the seconds until the head's raylet is alive in the node table, and the CPU seconds that
all its processes have used by then; the seconds from the start of a driver to its first task, and the CPU seconds of
the head's processes by then, the driver's own left out; their number, and their memory in MB, shared pages divided.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.contenders import CPUS, OBJECT_STORE, free_port
from benchmarks.floor import end_all, ray_start, until
from benchmarks.places import HERE, REPOSITORY
from benchmarks.report import Spread
from rayhpc.bootstrap import resources, share
from rayhpc.bootstrap.node import Node, start_arguments
from rayhpc.inside_ray import names, patches
from rayhpc.model import Assignment
from rayhpc.options import Options
from rayhpc.processes import environment, keeper
from rayhpc.processes.ray_start import COMMAND

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
# `ray`, which gets its arguments as rayhpc's own program does.
_RAY = """
import json, sys
from ray.scripts.scripts import main
sys.argv[1:] = json.loads(sys.stdin.read())["arguments"]
main()
"""
_OF_RAY = (sys.executable, "-c", _RAY)


@dataclass(frozen=True)
class Setting:
    """hook: who is called before Ray starts anything, nobody if empty; command: the program that is `ray`."""

    hook: str = names.HOOK_NAME
    command: tuple[str, ...] = COMMAND
    environ: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    cpus: int = CPUS


def _part(name: str) -> Setting:
    """One part of what rayhpc does, alone."""
    return Setting(f"{__spec__.name}.{name}", _OF_RAY)


SETTINGS = {
    "as rayhpc starts it": Setting(),
    "as Ray starts it": Setting("", _OF_RAY),
    "fewer imports": Setting(""),
    "no dashboard's process": _part("without_dashboard"),
    "agents behind": _part("with_agents_behind"),
    "log monitor as a thread": _part("with_log_thread"),
    "a worker at once": _part("with_a_worker"),
    "rayhpc, no worker at once": Setting(environ={"RAY_enable_worker_prestart": "0"}),
    "rayhpc, 16 CPUs": Setting(cpus=16),
    "rayhpc, 16 CPUs, no worker at once": Setting(environ={"RAY_enable_worker_prestart": "0"}, cpus=16),
    "rayhpc, no log monitor": Setting(arguments=("--include-log-monitor=false",)),
    "rayhpc, one server thread": Setting(
        environ={"RAY_num_server_call_thread": "1", "RAY_gcs_server_rpc_server_thread_num": "1"}
    ),
    "rayhpc, plasma's sleep": Setting(environ={"RAY_raylet_client_connect_timeout_milliseconds": "1000"}),
}


def without_dashboard(_: Any, __: bool) -> None:
    """One part of what rayhpc does, as Ray's start hook."""
    patches.replace_dashboard()


def with_agents_behind(ray_params: Any, _: bool) -> None:
    """Another part of it."""
    patches.leave_agents_behind(ray_params, dashboard=False)


def with_log_thread(_: Any, __: bool) -> None:
    """The third part."""
    patches.monitor_logs_here()


def with_a_worker(_: Any, __: bool) -> None:
    """The fourth part."""
    patches.prepare_one_worker()


Figures = tuple[float, float, float, float, float, float]


def head(setting: Setting, directory: Path) -> Figures:
    """Seconds until alive, CPU seconds then, the driver's seconds, CPU seconds then, processes, MB."""
    options = Options(num_cpus=setting.cpus, object_store_memory=str(OBJECT_STORE), ray_arg=setting.arguments)
    run_id = f"head-{secrets.token_hex(4)}"
    spec = share.divide([resources.survey(0, options, None, "", os.environ)], options, run_id)[0]
    version = resources.versions().ray
    own = Assignment(run_id, str(directory), spec.address, 0, 1, version, spec, secrets.token_hex(32))
    node = Node(own, spec, options)
    node.prepare()
    try:
        return _timed(node, own, options, setting)
    finally:
        end_all(node)


def _environment(node: Node, setting: Setting) -> dict[str, str]:
    """Hooks of this file must be found by `ray start`, which does not look into the working directory."""
    env = {**node.environment, **setting.environ, "PYTHONPATH": str(REPOSITORY), names.HOOK: setting.hook}
    return env if setting.hook else {name: value for name, value in env.items() if name != names.HOOK}


def _timed(node: Node, own: Assignment, options: Options, setting: Setting) -> Figures:
    port = free_port()
    words = start_arguments(own, node.spec, options, port, "")
    address, env = f"{own.head_address}:{port}", _environment(node, setting)
    with node.log.open("ab") as log, subprocess.Popen(
        [sys.executable, "-c", _ALIVE, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env
    ) as watcher:  # fmt: skip
        assert watcher.stdin is not None and watcher.stdout is not None
        watcher.stdout.readline()
        began = time.monotonic()
        started = ray_start(words, node.log, env, setting.command)
        watcher.stdin.write(b"\n")
        watcher.stdin.flush()
        if watcher.stdout.readline() != b"alive\n":
            raise TimeoutError(f"no head after a minute:\n{node.log.read_text()}")
        seconds = time.monotonic() - began
        early = processes.cpu(_PROC, family(started.pid), children=True)
        driving = _drive(node, address)
        late = processes.usage(_PROC, family(started.pid))
        cpu = processes.cpu(_PROC, family(started.pid), children=True)
        return seconds, early, driving, cpu, late.count, late.pss / 2**20


def _drive(node: Node, address: str) -> float:
    """Seconds from the start of the driver, which goes on, to its first task."""
    env = {**environment.scrubbed(os.environ), **node.authentication, "RAY_ADDRESS": address}
    with tempfile.TemporaryDirectory(prefix="driver-") as made:
        began = time.time()
        command = [sys.executable, str(HERE / "driver.py"), made, "1", "60"]
        with node.log.open("ab") as log:
            driver = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        first = Path(made, "first_task")
        until(lambda: first.exists() or driver.poll() is not None, "the first task")
        if not first.exists():
            raise RuntimeError(
                f"the driver ended with {driver.returncode} before its first task:\n{node.log.read_text()}"
            )
        return float(first.read_text()) - began


def family(root: int) -> list[int]:
    """A process and all below it."""
    return [root, *keeper.descendants(root)]


def main() -> None:
    """A line for each setting."""
    keeper.become_subreaper()
    found: dict[str, list[Figures]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="head-") as made:
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
            for name, setting in SETTINGS.items():
                found[name].append(head(setting, Path(made)))
    for name, figures in found.items():
        columns = [Spread.of(column) for column in zip(*figures, strict=True)]
        texts = [column.text(digits) for column, digits in zip(columns, (2, 2, 2, 2, 0, 0), strict=True) if column]
        print(f"| {name} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
