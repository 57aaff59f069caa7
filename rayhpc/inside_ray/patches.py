"""What `ray start` does without need before a node may work, spared: the one place that touches what Ray keeps private.

Ray starts three Python programs beside each raylet, and a fourth on the head. Each imports Ray: a CPU second, and far
more from a shared file system. The raylet enters the node table once its two agents have done so, or gives up after
30 s. Here it enters at once, and only the programs that have something to do are started.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rayhpc.inside_ray import names

# Releases whose private names were looked at. With any other `ray start` does all that Ray made it do.
_FIRST, _LAST = (2, 54), (2, 60)
_OF_RUNTIME_ENV = "runtime_env_agent_port"
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", _OF_RUNTIME_ENV)
# What the dashboard's agent tells of services that it does not have.
_NO_SERVICE = -1
# The raylet insists on an agent of the dashboard, and ends when it ends.
_DASHBOARD_AGENT = "--dashboard_agent_command="
_STAND_IN = "sleep infinity"
# Workers that the raylet begins with; whether at once, or when the first driver comes.
_WORKERS = "--num_prestart_python_workers"
_PRESTART = "RAY_enable_worker_prestart"
_OUR_AGENT = Path(__file__).with_name("deferred_agent.py")
_RAYS_AGENT = Path("_private", "runtime_env", "agent", "main.py")

_reserved: list[socket.socket] = []


def known() -> bool:
    """Whether the release of Ray that runs is one that was looked at."""
    import ray

    return _FIRST <= names.release(ray.__version__) <= _LAST


def leave_out_dashboard() -> None:
    """Start no dashboard's process on a head that shall have no dashboard: it would serve nobody."""
    from ray._private.node import Node

    Node.start_api_server = _nothing


def _nothing(*_: object, **__: object) -> None:
    """In the place of what is left out."""


def leave_agents_behind(ray_params: Any) -> None:
    """Let the raylet begin while its agents import: their ports are known before, and written where it looks for them.

    Without the packages of ray[default] the dashboard's agent has no service at all, and none is started.
    """
    import ray._raylet
    from ray._private import services, utils

    idle = utils.get_dashboard_dependency_error() is not None
    for name in (_OF_RUNTIME_ENV,) if idle else _PORTS:
        setattr(ray_params, name, getattr(ray_params, name) or reserve(ray_params.node_ip_address))
    ports = {name: _NO_SERVICE if idle and name != _OF_RUNTIME_ENV else getattr(ray_params, name) for name in _PORTS}

    def edit(raylet: list[str]) -> list[str]:
        words = dict(word.split("=", 1) for word in raylet if "=" in word)
        for name, port in ports.items():
            ray._raylet.persist_port(words["--session_dir"], words["--node_id"], name, port)
        return with_late_agent(with_idle_agent(raylet) if idle else raylet, Path(services.RAY_PATH))

    _edit_raylet(edit)


def _edit_raylet(edit: Callable[[list[str]], list[str]]) -> None:
    """Let the raylet's command line go through this before it is run."""
    from ray._private import services

    start = services.start_ray_process

    def start_process(command: list[str], process_type: str, *rest: Any, **named: Any) -> Any:
        return start(edit(command) if process_type == "raylet" else command, process_type, *rest, **named)

    services.start_ray_process = start_process


def prepare_one_worker() -> None:
    """Let the head's raylet begin with one worker, which imports while the driver does.

    Ray begins when the first driver comes, with one for each CPU, and lets it wait for the first of them. What the user
    has said in the variable stays as it is.
    """
    if _PRESTART not in os.environ:
        os.environ[_PRESTART] = "1"
        _edit_raylet(with_one_worker)


def with_one_worker(raylet: list[str]) -> list[str]:
    """The raylet's command line with one worker to begin with; none stays none."""
    count, none = (f"{_WORKERS}={number}" for number in (1, 0))
    return [count if word.startswith(f"{_WORKERS}=") and word != none else word for word in raylet]


def with_idle_agent(raylet: list[str]) -> list[str]:
    """The raylet's command line with a program that only sleeps in the place of the dashboard's agent."""
    return [_DASHBOARD_AGENT + _STAND_IN if word.startswith(_DASHBOARD_AGENT) else word for word in raylet]


def with_late_agent(raylet: list[str], ray: Path) -> list[str]:
    """The raylet's command line with a runtime-environment agent that imports Ray, when it is called."""
    rays = str(ray / _RAYS_AGENT)
    early, late = (subprocess.list2cmdline(words) for words in ([rays], [str(_OUR_AGENT), rays]))
    return [word.replace(early, late) for word in raylet]


def reserve(address: str) -> int:
    """A port of this address that nobody is given until this process ends, and an agent can bind.

    Linux lets a second socket bind a port if both have SO_REUSEADDR and neither listens; it hands out such a port to no
    socket that asks for any.
    """
    held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((address, 0))
    _reserved.append(held)
    return int(held.getsockname()[1])


def monitor_logs_here() -> None:
    """Let Ray's log monitor be a thread of `ray start`, which has imported all it needs, and waits."""
    from ray._private.node import Node

    start = Node.start_log_monitor

    def start_log_monitor(node: Any) -> None:
        threading.Thread(target=_monitor_logs, args=(node, start), name="log-monitor", daemon=True).start()

    Node.start_log_monitor = start_log_monitor


def _keep_its_log(node: Any) -> None:
    """What the monitor says goes where it went, and not among the words of `ray start`."""
    from ray._private import log_monitor, ray_constants

    file = Path(node.get_logs_dir_path(), ray_constants.LOG_MONITOR_LOG_FILE_NAME)
    handler = RotatingFileHandler(file, maxBytes=node.max_bytes, backupCount=node.backup_count)
    handler.setFormatter(logging.Formatter(ray_constants.LOGGER_FORMAT))
    log_monitor.logger.addHandler(handler)
    log_monitor.logger.propagate = False


def _monitor_logs(node: Any, start: Callable[[Any], None]) -> None:
    """Until the process ends; a monitor that fails is replaced by a process, as Ray starts it."""
    import ray._raylet
    from ray._private.log_monitor import LogMonitor, is_proc_alive

    try:
        _keep_its_log(node)
        client, where = ray._raylet.GcsClient(address=node.gcs_address), node.get_logs_dir_path()
        LogMonitor(node.node_ip_address, where, client, is_proc_alive, gcs_address=node.gcs_address).run()
    except Exception:  # Ray's errors share no base class
        traceback.print_exc()
        start(node)
