"""What is changed in `ray start`, what is left as it is, and a reserved port."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray._raylet
from ray._private import services, utils
from ray._private.node import Node

from rayhpc.inside_ray import names, node_table_server, patches, start_hook, state_server

PRESTART = "RAY_enable_worker_prestart"
AGENTS = ["metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port"]
DASHBOARD = f"{services.RAY_PATH}/dashboard/dashboard.py"
MAIN = f"{services.RAY_PATH}/_private/runtime_env/agent/main.py"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that Ray would run; none is."""
    commands: list[list[str]] = []

    def start(command: list[str], process_type: str, fate_share: bool) -> None:
        commands.append([process_type, *command])

    for owner, name in ((Node, "start_api_server"), (Node, "start_log_monitor")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(services, "start_ray_process", start)
    monkeypatch.setattr(utils, "get_dashboard_dependency_error", utils.get_dashboard_dependency_error)
    return commands


@pytest.fixture
def minimal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """Whether the packages of ray[default] are missing."""
    monkeypatch.setattr(names, "DASHBOARD_PACKAGES", ("no_such_package",) if request.param else ())
    return bool(request.param)


AGENT = Path(services.RAY_PATH, "dashboard", "agent.py")


def parameters(**said: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{**dict.fromkeys(AGENTS), "node_ip_address": "127.0.0.1", "include_dashboard": False, **said},
        ray_client_server_port=10001,
    )


def raylet(directory: Path) -> list[str]:
    agents = ["--dashboard_agent_command=python -u agent.py --x=1", f"--runtime_env_agent_command=python -u {MAIN} -v"]
    return ["raylet", f"--session_dir={directory}", "--node_id=ab12", *agents]


def persisted(directory: Path) -> dict[str, int]:
    """The ports that a raylet would find at once."""
    return {name: ray._raylet.wait_for_persisted_port(str(directory), "ab12", name, 0, 1) for name in AGENTS}


@pytest.mark.parametrize("dashboard", [True, False])
@pytest.mark.parametrize("minimal", [True, False], indirect=True)
def test_a_raylet_finds_its_agents_ports(
    started: list[list[str]], minimal: bool, dashboard: bool, tmp_path: Path
) -> None:
    """Those that the agents are told to take, and -1 for what is not served: without a dashboard, or its packages."""
    given, idle = parameters(), minimal or not dashboard
    patches.leave_agents_behind(given, dashboard)
    services.start_ray_process(raylet(tmp_path), "raylet", fate_share=True)
    found = persisted(tmp_path)
    assert found["runtime_env_agent_port"] == given.runtime_env_agent_port > 1023
    served = {name: getattr(given, name) for name in AGENTS[:3]}
    assert {name: found[name] for name in AGENTS[:3]} == (dict.fromkeys(AGENTS[:3], -1) if idle else served)
    (command,) = started
    assert ("--dashboard_agent_command=sleep infinity" in command) == idle
    assert (utils.get_dashboard_dependency_error() is not None) == idle
    ours = Path(patches.__file__).with_name("deferred_agent.py")
    assert command[-1] == f"--runtime_env_agent_command=python -u {ours} {MAIN} -v"


@pytest.mark.parametrize("minimal", [False], indirect=True)
def test_the_agent_of_a_run_with_a_dashboard_looks_at_its_own_node(
    started: list[list[str]], minimal: bool, tmp_path: Path
) -> None:
    command = [word.replace("agent.py --x=1", f"{AGENT} --x={AGENT}") for word in raylet(tmp_path)]
    patches.leave_agents_behind(parameters(), dashboard=True)
    services.start_ray_process(command, "raylet", fate_share=True)
    ours = Path(patches.__file__).with_name("own_node_agent.py")
    assert f"--dashboard_agent_command=python -u {ours} {AGENT} --x={AGENT}" in started[0]


@pytest.mark.parametrize("minimal", [False], indirect=True)
def test_a_port_for_metrics_that_the_user_chose(started: list[list[str]], minimal: bool, tmp_path: Path) -> None:
    """Somebody will ask for them: the dashboard's agent, which has them, is started without a dashboard, too."""
    given = parameters(metrics_export_port=8080, runtime_env_agent_port=5050)
    patches.leave_agents_behind(given, dashboard=False)
    assert (given.metrics_export_port, given.runtime_env_agent_port) == (8080, 5050)
    services.start_ray_process(raylet(tmp_path), "raylet", fate_share=True)
    assert "--dashboard_agent_command=python -u agent.py --x=1" in started[0]
    assert persisted(tmp_path)["metrics_export_port"] == 8080


def test_other_processes_are_started_as_ever(started: list[list[str]], tmp_path: Path) -> None:
    patches.leave_agents_behind(parameters(), dashboard=False)
    services.start_ray_process(["gcs_server", f"--session_dir={tmp_path}"], "gcs_server", fate_share=True)
    assert started == [["gcs_server", "gcs_server", f"--session_dir={tmp_path}"]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "expected"), [(64, 1), (1, 1), (0, 0)])
def test_the_heads_raylet_begins_with_one_worker(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, workers: int, expected: int
) -> None:
    monkeypatch.delenv(PRESTART, raising=False)
    patches.prepare_one_worker()
    assert os.environ.pop(PRESTART) == "1"
    services.start_ray_process(["raylet", f"--num_prestart_python_workers={workers}"], "raylet", fate_share=True)
    assert started == [["raylet", "raylet", f"--num_prestart_python_workers={expected}"]]


@pytest.mark.parametrize("said", ["0", "1"])
def test_workers_that_the_user_has_decided_on(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv(PRESTART, said)
    patches.prepare_one_worker()
    assert os.environ[PRESTART] == said
    services.start_ray_process(["raylet", "--num_prestart_python_workers=64"], "raylet", fate_share=True)
    assert started[0][-1] == "--num_prestart_python_workers=64"


@pytest.mark.parametrize(
    ("head", "dashboard", "version", "switch", "patched", "api_server"),
    [
        (True, "", "2.60.0", "", True, True),
        (True, "1", "2.60.0", "1", True, True),
        (False, "1", "2.54.1", "", True, False),
        (True, "", "2.60.0", "0", False, False),
        (False, "", "2.54.1", "off", False, False),
        (True, "", "2.61.0", "", False, False),
        (False, "", "3.0.0.dev0", "", False, False),
    ],
)
def test_when_ray_is_patched(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch,
    head: bool, dashboard: str, version: str, switch: str, patched: bool, api_server: bool,
) -> None:  # fmt: skip
    """With the switch at 0, and with a release that nobody checked, nothing of Ray is touched."""
    answering: list[str] = []
    monkeypatch.setattr(ray, "__version__", version)
    monkeypatch.setattr(node_table_server, "answer", answering.append)
    for name, value in {
        "RAYHPC_NODE_TABLE": "/run/nodes",
        "RAYHPC_RAY_DASHBOARD": dashboard,
        names.SWITCH: switch,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(PRESTART, "")  # so that monkeypatch takes away what is set
    monkeypatch.delenv(PRESTART)
    before = (services.start_ray_process, Node.start_log_monitor, Node.start_api_server)
    given = parameters(include_dashboard=bool(dashboard))
    start_hook.adjust(given, head)
    after = (services.start_ray_process, Node.start_log_monitor, Node.start_api_server)
    changed = [was is not is_ for was, is_ in zip(before, after, strict=True)]
    assert changed == [patched, patched, api_server]
    assert bool(given.runtime_env_agent_port) == patched
    assert (PRESTART in os.environ) == (head and patched)
    assert answering == ["/run/nodes"] * patched
    assert not {"RAYHPC_NODE_TABLE", "RAYHPC_RAY_DASHBOARD"} & set(os.environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2.60.0", (2, 60)), ("2.54.1", (2, 54)), ("3.0.0.dev0", (3, 0)), ("nightly", ()), ("", ())],
)
def test_the_release_of_a_version(text: str, expected: tuple[int, ...]) -> None:
    assert names.release(text) == expected
    assert names.patched({}, text) == ((2, 54) <= expected <= (2, 60))


@pytest.mark.parametrize(("value", "off"), [("0", True), ("no", True), (" False ", True), ("1", False), ("", False)])
def test_the_switch(value: str, off: bool) -> None:
    assert names.switched_off({"RAYHPC_RAY_PATCHES": value}) == off
    assert names.patched({"RAYHPC_RAY_PATCHES": value}, "2.60.0") != off


def test_the_installed_version_is_found_without_an_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without Ray, or a directory of that name, has none."""
    assert names.installed_version() == ray.__version__
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert names.installed_version() == ""
    (tmp_path / "ray").mkdir()
    assert names.installed_version() == ""


def test_what_is_private_in_ray_is_there() -> None:
    """The names that are touched, in the release that the tests run with."""
    assert names.patched({}, ray.__version__)
    assert Path(MAIN).is_file()
    assert Path(DASHBOARD).is_file()
    source = Path(services.__file__).read_text()
    assert AGENT.is_file()
    assert "find_node_ids()" in source  # what own_node_agent.py replaces
    assert 'os.environ["RAY_NODE_ID"]' in AGENT.read_text()
    for text in ('"--dashboard_agent_command={}"', '"--num_prestart_python_workers={}"', 'f"--host={host}"'):
        assert text in source


class FakeGcs:
    """A GCS in whose table a raylet appears at the third question."""

    def __init__(self, address: str) -> None:
        self.asked = 0
        assert address == "10.0.0.1:7"

    def get_all_node_info(self, **_: float) -> dict[str, SimpleNamespace]:
        self.asked += 1
        return {"a": SimpleNamespace(state=0)} if self.asked > 2 else {}


def head_node() -> SimpleNamespace:
    return SimpleNamespace(gcs_address="10.0.0.1:7", node_ip_address="10.0.0.1", all_processes={"gcs_server": [1]})


def test_a_dashboard_is_started_once_the_raylet_is_alive(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread that goes on: with it, its child would end. Its program listens before it imports Ray."""
    done = threading.Event()

    def start(node: SimpleNamespace, **named: Any) -> None:
        services.start_ray_process(["python", DASHBOARD, "--port=1"], "dashboard", fate_share=True)
        node.all_processes["dashboard"] = [2]
        done.set()

    monkeypatch.setattr(Node, "start_api_server", start)
    monkeypatch.setattr(ray._raylet, "GcsClient", FakeGcs)
    patches.start_dashboard_late()
    node = head_node()
    Node.start_api_server(node, include_dashboard=True, raise_on_failure=True)
    assert done.wait(30)
    deferred = Path(patches.__file__).with_name("deferred_agent.py")
    assert started == [["dashboard", "python", str(deferred), DASHBOARD, "--port=1"]]
    assert "dashboard" in [thread.name for thread in threading.enumerate()]


def test_a_dashboard_that_does_not_start_ends_the_head(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], started: list[list[str]]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(os, "kill", lambda pid, signum: ended.set() if (pid, signum) == (os.getpid(), 15) else None)
    monkeypatch.setattr(ray._raylet, "GcsClient", FakeGcs)

    def start(_: SimpleNamespace, **__: Any) -> None:
        raise RuntimeError("no dashboard today")

    monkeypatch.setattr(Node, "start_api_server", start)
    patches.start_dashboard_late()
    Node.start_api_server(head_node(), include_dashboard=True, raise_on_failure=True)
    assert ended.wait(30)
    assert "no dashboard today" in capfd.readouterr().err


def test_a_table_of_processes_may_grow_while_it_is_read() -> None:
    table = patches.Processes({"raylet": [1], "gcs_server": [2]})
    for name, _ in table.items():
        table[f"{name}-2"] = [3]
    for value in table.values():
        table[str(value)] = [4]
    assert len(table) == 7


def test_in_the_place_of_the_dashboard_is_the_state_api(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, str]] = []
    monkeypatch.setattr(state_server, "start", lambda *where: served.append(where))
    patches.replace_dashboard()
    Node.start_api_server(head_node(), include_dashboard=False, raise_on_failure=False)
    assert (served, started) == ([("10.0.0.1", "10.0.0.1:7")], [])


@contextlib.contextmanager
def bound(address: str, port: int, reuse: bool) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        other.bind((address, port))
        yield other


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_reserved_port(address: str) -> None:
    """An agent can listen on it, others cannot bind it, and it is not handed out."""
    try:
        port = patches.reserve(address)
    except OSError as error:
        pytest.skip(f"no {address} here: {error}")
    with pytest.raises(OSError, match="in use"), bound(address, port, reuse=False):
        pass
    with bound(address, port, reuse=True) as agent:
        agent.listen()
        with contextlib.closing(socket.create_connection((address, port), 5)):
            pass
    assert port not in [patches.reserve(address) for _ in range(200)]


def test_a_log_monitor_that_fails_is_started_as_ever(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By a thread that goes on: with it, its child would end."""
    processes: queue.Queue[object] = queue.Queue()
    monkeypatch.setattr(Node, "start_log_monitor", processes.put)
    patches.monitor_logs_here()
    where = {"get_logs_dir_path": lambda: str(tmp_path / "gone"), "max_bytes": 0, "backup_count": 0}
    node = SimpleNamespace(**where, all_processes={})
    Node.start_log_monitor(node)
    assert processes.get(timeout=30) is node
    assert "No such file or directory" in capfd.readouterr().err
    assert "log-monitor" in [thread.name for thread in threading.enumerate()]
