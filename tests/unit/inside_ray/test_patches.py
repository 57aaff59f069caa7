"""What `ray start` is spared: what is changed in Ray, what is left as it is, and a reserved port."""

from __future__ import annotations

import contextlib
import os
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

from rayhpc.inside_ray import node_table_server, patches, start_hook

PRESTART = "RAY_enable_worker_prestart"
AGENTS = ["metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port"]
MAIN = f"{services.RAY_PATH}/_private/runtime_env/agent/main.py"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Ray would start, once hastened: nothing is."""
    commands: list[list[str]] = []

    def start(command: list[str], process_type: str, fate_share: bool) -> None:
        commands.append([process_type, *command])

    for owner, name in ((Node, "start_api_server"), (Node, "start_log_monitor")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(services, "start_ray_process", start)
    return commands


@pytest.fixture
def minimal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    missing = ImportError("aiohttp_cors") if request.param else None
    monkeypatch.setattr(utils, "get_dashboard_dependency_error", lambda: missing)
    return bool(request.param)


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


@pytest.mark.parametrize("minimal", [True, False], indirect=True)
def test_a_raylet_finds_its_agents_ports(started: list[list[str]], minimal: bool, tmp_path: Path) -> None:
    """Those that the agents are told to take, and -1 for what is not served."""
    given = parameters()
    patches.leave_agents_behind(given)
    services.start_ray_process(raylet(tmp_path), "raylet", fate_share=True)
    found = persisted(tmp_path)
    assert found["runtime_env_agent_port"] == given.runtime_env_agent_port > 1023
    served = {name: getattr(given, name) for name in AGENTS[:3]}
    assert {name: found[name] for name in AGENTS[:3]} == (dict.fromkeys(AGENTS[:3], -1) if minimal else served)
    (command,) = started
    assert ("--dashboard_agent_command=sleep infinity" in command) == minimal
    ours = Path(patches.__file__).with_name("deferred_agent.py")
    assert command[-1] == f"--runtime_env_agent_command=python -u {ours} {MAIN} -v"


@pytest.mark.parametrize("minimal", [False], indirect=True)
def test_ports_that_the_user_chose(started: list[list[str]], minimal: bool) -> None:
    given = parameters(metrics_export_port=8080, runtime_env_agent_port=5050)
    patches.leave_agents_behind(given)
    assert (given.metrics_export_port, given.runtime_env_agent_port) == (8080, 5050)


@pytest.mark.parametrize("minimal", [True], indirect=True)
def test_other_processes_are_started_as_ever(started: list[list[str]], minimal: bool, tmp_path: Path) -> None:
    patches.leave_agents_behind(parameters())
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
    ("head", "dashboard", "version", "edited", "hastened", "no_dashboard"),
    [
        (True, False, "2.60.0", True, True, True),
        (True, True, "2.60.0", True, False, False),
        (False, None, "2.54.1", True, True, False),
        (True, False, "2.61.0", False, False, False),
        (False, None, "3.0.0.dev0", False, False, False),
    ],
)
def test_when_it_is_done(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch,
    head: bool, dashboard: bool | None, version: str, edited: bool, hastened: bool, no_dashboard: bool,
) -> None:  # fmt: skip
    """With a dashboard the head's agents have work at once; of a release that nobody looked at nothing is touched."""
    monkeypatch.setattr(ray, "__version__", version)
    monkeypatch.setattr(node_table_server, "answer", lambda _: None)
    monkeypatch.setenv("RAYHPC_NODE_TABLE", "")
    monkeypatch.setenv(PRESTART, "")  # so that monkeypatch takes away what is set
    monkeypatch.delenv(PRESTART)
    before = (services.start_ray_process, Node.start_log_monitor, Node.start_api_server)
    given = parameters(include_dashboard=dashboard)
    start_hook.adjust(given, head)
    after = (services.start_ray_process, Node.start_log_monitor, Node.start_api_server)
    assert [was is not is_ for was, is_ in zip(before, after, strict=True)] == [edited, hastened, no_dashboard]
    assert bool(given.runtime_env_agent_port) == hastened
    assert (PRESTART in os.environ) == (head and version == "2.60.0")


def test_what_is_private_in_ray_is_there() -> None:
    """The names that are touched, in the release that the tests run with."""
    assert patches.known()
    assert Path(MAIN).is_file()
    source = Path(services.__file__).read_text()
    assert '"--dashboard_agent_command={}"' in source
    assert '"--num_prestart_python_workers={}"' in source


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
    processes: list[object] = []
    monkeypatch.setattr(Node, "start_log_monitor", processes.append)
    patches.monitor_logs_here()
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path / "gone"), max_bytes=0, backup_count=0)
    Node.start_log_monitor(node)
    for thread in threading.enumerate():
        if thread.name == "log-monitor":
            thread.join(30)
    assert processes == [node]
    assert "No such file or directory" in capfd.readouterr().err
