"""What `ray start` does before a node may work, without what nobody needs. Called by start_hook.py alone.

Ray starts three Python programs beside each raylet, and a fourth on the head. Each imports Ray: a CPU second, and far
more from a shared file system. The raylet enters the node table once its two agents have done so, or gives up after
30 s. Here it enters at once, and only the programs that have something to do are started.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rayhpc.inside_ray import names, state_server

_OF_RUNTIME_ENV = "runtime_env_agent_port"
_METRICS = ("metrics_agent_port", "metrics_export_port")
_PORTS = (*_METRICS, "dashboard_agent_listen_port", _OF_RUNTIME_ENV)
# What the dashboard's agent tells of services that it does not have.
_NO_SERVICE = -1
# The raylet insists on an agent of the dashboard, and ends when it ends.
_DASHBOARD_AGENT = "--dashboard_agent_command="
_IDLE_AGENT = "sleep infinity"
# How many workers the raylet starts first; and whether at once, or when the first driver comes.
_WORKERS = "--num_prestart_python_workers"
_PRESTART = "RAY_enable_worker_prestart"
_DEFERRED = str(Path(__file__).with_name("deferred_agent.py"))
_OWN_NODE = str(Path(__file__).with_name("own_node_agent.py"))
_AGENT = Path("dashboard", "agent.py")
_RUNTIME_ENV_AGENT = Path("_private", "runtime_env", "agent", "main.py")
_DASHBOARD = Path("dashboard", "dashboard.py")
_ALIVE = 0
_RAYLET_SECONDS = 60.0
_POLL_SECONDS = 0.05

Edit = Callable[[list[str]], list[str]]

_reserved: list[socket.socket] = []


class Processes(dict[str, Any]):
    """Ray's table of the processes of a node, which may grow in one thread while another goes through it."""

    def items(self) -> Any:
        """The pairs as they are now."""
        return list(super().items())

    def values(self) -> Any:
        """The values as they are now."""
        return list(super().values())


def replace_dashboard() -> None:
    """Start no dashboard's process on a head without a dashboard; state_server.py answers what drivers ask it for."""
    from ray._private.node import Node

    def start_api_server(node: Any, **_: Any) -> None:
        state_server.start(node.node_ip_address, node.gcs_address)

    Node.start_api_server = start_api_server


def start_dashboard_late() -> None:
    """Let the head be up before its dashboard: that imports Ray while workers join and the driver starts.

    Who calls the dashboard meanwhile waits for its answer: deferred_agent.py listens in its place.
    """
    from ray._private import services
    from ray._private.node import Node

    start, program = Node.start_api_server, str(Path(services.RAY_PATH) / _DASHBOARD)

    def start_api_server(node: Any, **named: Any) -> None:
        node.all_processes = Processes(node.all_processes)
        work = (node, lambda: start(node, **named))
        threading.Thread(target=_run_after_raylet, args=work, name="dashboard", daemon=True).start()

    Node.start_api_server = start_api_server
    _edit_command("dashboard", lambda command: with_deferred(command, program))


def _run_after_raylet(node: Any, start: Callable[[], None]) -> None:
    """Start something once the head's raylet is in the node table; end `ray start` where that fails."""
    try:
        _wait_for_raylet(node.gcs_address)
        start()
    except Exception:  # Ray's errors share no base class
        traceback.print_exc()
        os.kill(os.getpid(), signal.SIGTERM)
    _stay()


def _wait_for_raylet(address: str) -> None:
    """Return once a node is alive; raises TimeoutError."""
    import ray._raylet

    client = ray._raylet.GcsClient(address=address)
    end = time.monotonic() + _RAYLET_SECONDS
    while not any(info.state == _ALIVE for info in client.get_all_node_info(timeout=_RAYLET_SECONDS).values()):
        if time.monotonic() > end:
            raise TimeoutError(f"the head's raylet is not in the node table after {_RAYLET_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _stay() -> None:
    """Keep this thread: a child with PR_SET_PDEATHSIG is killed when the thread that started it ends."""
    threading.Event().wait()


def leave_agents_behind(ray_params: Any, dashboard: bool) -> None:
    """Let the raylet start while its agents import: their ports are chosen before, and written where it reads them.

    Nobody asks the dashboard's agent for anything without a dashboard and without a port for metrics that the user
    chose; and it has no service at all without the packages of ray[default]. Then none is started, and Ray does what it
    does without these packages.
    """
    import ray._raylet
    from ray._private import services, utils

    wanted = dashboard or any(getattr(ray_params, name) for name in _METRICS)
    idle = not wanted or any(PathFinder.find_spec(name) is None for name in names.DASHBOARD_PACKAGES)
    # Ray imports all these packages to find out, which takes as long as the import of Ray.
    missing = ImportError("the packages of ray[default]") if idle else None
    utils.get_dashboard_dependency_error = lambda: missing
    for name in (_OF_RUNTIME_ENV,) if idle else _PORTS:
        setattr(ray_params, name, getattr(ray_params, name) or reserve(ray_params.node_ip_address))
    ports = {name: _NO_SERVICE if idle and name != _OF_RUNTIME_ENV else getattr(ray_params, name) for name in _PORTS}
    program, agent = (str(Path(services.RAY_PATH) / path) for path in (_RUNTIME_ENV_AGENT, _AGENT))

    def edit(raylet: list[str]) -> list[str]:
        options = dict(_pairs(raylet))
        for name, port in ports.items():
            ray._raylet.persist_port(options["--session_dir"], options["--node_id"], name, port)
        return with_deferred_agent(with_idle_agent(raylet) if idle else with_own_node(raylet, agent), program)

    _edit_command("raylet", edit)


def _pairs(command: list[str]) -> Iterator[tuple[str, str]]:
    """The options of the form --name=value."""
    for argument in command:
        name, equals, value = argument.partition("=")
        if equals:
            yield name, value


def _edit_command(wanted: str, edit: Edit) -> None:
    """Change the command line of Ray's processes of this type before it is run."""
    from ray._private import services

    start = services.start_ray_process

    def start_process(command: list[str], process_type: str, *rest: Any, **named: Any) -> Any:
        return start(edit(command) if process_type == wanted else command, process_type, *rest, **named)

    services.start_ray_process = start_process


def prepare_one_worker() -> None:
    """Let the head's raylet start one worker at once, which imports Ray while the driver does.

    Ray starts one for each CPU when the first driver comes, which waits for the first of them. What the user has set in
    the variable stays as it is.
    """
    if _PRESTART not in os.environ:
        os.environ[_PRESTART] = "1"
        _edit_command("raylet", with_one_worker)


def with_one_worker(raylet: list[str]) -> list[str]:
    """The raylet's command line with one worker to start first; none stays none."""
    count, none = (f"{_WORKERS}={number}" for number in (1, 0))
    return [count if word.startswith(f"{_WORKERS}=") and word != none else word for word in raylet]


def with_idle_agent(raylet: list[str]) -> list[str]:
    """The raylet's command line with a program that only sleeps in the place of the dashboard's agent."""
    return [_DASHBOARD_AGENT + _IDLE_AGENT if word.startswith(_DASHBOARD_AGENT) else word for word in raylet]


def with_own_node(raylet: list[str], agent: str) -> list[str]:
    """The raylet's command line with an agent of the dashboard that reads the logs of this node."""
    plain, own = (subprocess.list2cmdline(words) for words in ([agent], [_OWN_NODE, agent]))
    return [word.replace(plain, own, 1) if word.startswith(_DASHBOARD_AGENT) else word for word in raylet]


def with_deferred_agent(raylet: list[str], agent: str) -> list[str]:
    """The raylet's command line with a runtime-environment agent that imports Ray when it is called."""
    plain, deferred = (subprocess.list2cmdline(words) for words in ([agent], [_DEFERRED, agent]))
    return [word.replace(plain, deferred) for word in raylet]


def with_deferred(command: list[str], program: str) -> list[str]:
    """The command line of a Python program that listens at its port before it has imported anything."""
    place = command.index(program)
    return [*command[:place], _DEFERRED, *command[place:]]


def reserve(address: str) -> int:
    """A port of this address that an agent can bind, and that nobody else gets until this process ends.

    Linux lets a second socket bind a port if both have SO_REUSEADDR and neither listens; it hands out such a port to no
    socket that asks for any.
    """
    held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((address, 0))
    _reserved.append(held)
    return int(held.getsockname()[1])


def monitor_logs_here() -> None:
    """Let Ray's log monitor be a thread of `ray start`, which has imported all that it needs, and waits."""
    from ray._private.node import Node

    start = Node.start_log_monitor

    def start_log_monitor(node: Any) -> None:
        threading.Thread(target=_monitor_logs, args=(node, start), name="log-monitor", daemon=True).start()

    Node.start_log_monitor = start_log_monitor


def _keep_its_log(node: Any) -> None:
    """Write the monitor's messages to Ray's own file, and not into the output of `ray start`."""
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
        node.all_processes = Processes(node.all_processes)
        start(node)
        _stay()
