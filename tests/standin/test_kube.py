"""`rayhpc kube` with the real kubectl and real Ray. The API server and the operator are stand-ins."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import Mpi, until
from tests.standin.kube_lab import SMALL, Lab
from tests.standin.kube_operator import Operator
from tests.unit.kube import schemas
from tests.unit.kube.page import on_the_page

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

# Where a job runs: the number of nodes and of CPUs.
COUNT = """
import ray, sys
ray.init(log_to_driver=False)
@ray.remote
def square(x):
    import helper
    return helper.square(x)
print("result", sys.argv[1], len(ray.nodes()), ray.cluster_resources()["CPU"], ray.get(square.remote(3)), flush=True)
sys.exit(int(sys.argv[1]))
"""
TICK = """
import itertools, time
for number in itertools.count():
    print("tick", number, flush=True)
    time.sleep(0.2)
"""
OTHER = "# Cluster: another tool's\nhttp://other.example.org:8265\n"


def small(words: list[str]) -> list[str]:
    """The same with pods that this host can have."""
    place = words.index("--") if "--" in words else len(words)
    return [*words[:place], *SMALL[2:], *words[place:]]


def made(mpi: Mpi, directory: Path) -> Lab:
    schemas.definition("RayCluster")  # skips without the CRDs
    for name, text in (("count", COUNT), ("tick", TICK), ("helper", "def square(x):\n    return x * x\n")):
        (directory / f"{name}.py").write_text(text)
    return Lab(mpi, directory)


@pytest.fixture(scope="module")
def pair(dashboard: Mpi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two clusters of the page that are up, sweep-0 and sweep-1, until the last of these tests deletes them."""
    lab = made(dashboard, tmp_path_factory.mktemp("pair"))
    try:
        lab.start_operator()
        (lab.directory / ".ray_address").write_text(OTHER)
        lab.well(*small(on_the_page("kube", "launch")), "--output", "~/.ray_address")
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(dashboard: Mpi, tmp_path: Path) -> Iterator[Lab]:
    lab = made(dashboard, tmp_path)
    try:
        lab.start_operator()
        yield lab
    finally:
        lab.close()


def operator_of(lab: Lab) -> Operator:
    assert lab.operator is not None
    return lab.operator


def clusters(lab: Lab) -> dict[str, tuple[str, int, float]]:
    rows = json.loads(lab.well("cluster", "list", "--json"))
    return {row["batch_job_id"]: (row["state"], row["nodes"], row["cpus"]) for row in rows}


def test_launched_clusters_are_registered(pair: Lab) -> None:
    assert clusters(pair) == {"sweep-0": ("alive", 2, 2.0), "sweep-1": ("alive", 2, 2.0)}
    shown = pair.well("cluster", "show", "sweep-0")
    assert re.search(r"^head +sweep-0-head-svc\.lab\.svc, process \d+ on \S+ holds the port$", shown, re.MULTILINE)
    file = pair.directory / ".ray_address"
    first = file.read_text()
    assert first.startswith(OTHER)
    names = [line for line in first.splitlines() if line.startswith("#")]
    assert names[1:] == ["# Cluster: sweep-0", "# Cluster: sweep-1"]
    # Commands that write it at once; one that asks for a cluster that is not ready writes nothing.
    words = ("kube", "address", "--output", "~/.ray_address")
    writers = [
        subprocess.Popen(pair.argv(*words, *names), env=pair.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for names in ((), ("sweep-0",), ("sweep-1",))
    ]
    assert [each.wait(60) for each in writers] == [0, 0, 0]
    assert sorted(file.read_text().splitlines()) == sorted(first.splitlines())
    assert pair.run(*words, "sweep-0", "gone").returncode == 78


def test_each_cluster_has_its_own_token(pair: Lab) -> None:
    operator = operator_of(pair)
    own, other = operator.token("lab", "sweep-0"), operator.token("lab", "sweep-1")
    assert operator.ask("lab", "sweep-0", "/api/version", own)["ray_version"]
    for wrong in (other, ""):
        with pytest.raises(urllib.error.HTTPError) as caught:
            operator.ask("lab", "sweep-0", "/api/version", wrong)
        assert caught.value.code in (401, 403)


def test_jobs_for_each_and_for_all(pair: Lab) -> None:
    """--each: the first job on the first cluster; --all: one job on both."""
    lines = [f"{pair.mpi.python} {pair.directory}/count.py {code}" for code in (0, 7)]
    done = pair.run("job", "submit", "--each", *(f"PYTHONPATH={pair.directory} {line}" for line in lines))
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert pair.run("job", "wait", *ids).returncode == 7
    for number, job in enumerate(ids):
        assert f"to cluster sweep-{number}-" in next(line for line in done.stderr.splitlines() if f"job {job} " in line)
        log = pair.well("job", "logs", job)
        assert f"result {(0, 7)[number]} 2 2.0" in log, log
    done = pair.run("job", "submit", "--all", "--", "echo", "hello")
    assert done.returncode == 0, done.stderr
    assert [f"to cluster sweep-{number}-" in done.stderr for number in (0, 1)] == [True, True]
    pair.well("job", "wait", *done.stdout.split())


def test_the_jobs_of_the_page(pair: Lab) -> None:
    assert "'CPU': 2.0" in pair.well(*on_the_page("job", "submit", "--cluster"))
    pair.well("job", "wait", *pair.well(*on_the_page("job", "submit", "--each")).split())


def test_a_job_is_stopped(pair: Lab) -> None:
    job = pair.well("job", "submit", "--cluster", "sweep-1", "--", "python", "tick.py").strip()
    assert until(lambda: "tick 1\n" in pair.run("job", "logs", job).stdout, 30)
    pair.well("job", "stop", job)
    rows = json.loads(pair.well("job", "list", "--all-statuses", "--json", "--cluster", "sweep-1"))
    assert {row["id"]: row["status"] for row in rows}[job] == "STOPPED"


def test_pods_are_shown_and_their_logs(pair: Lab) -> None:
    lines = [line.split("\t") for line in pair.well("kube", "show", "sweep-0").splitlines()]
    assert lines[1][:4] == ["sweep-0", "RayCluster", "ready", "1/1"]
    assert lines[4:] == [["sweep-0-head", "headgroup", "ready"], ["sweep-0-workers-0", "workers", "ready"]]
    assert [row["name"] for row in json.loads(pair.well("kube", "list", "--json"))] == ["sweep-0", "sweep-1"]
    assert "Ray runtime started." in pair.well("kube", "logs", "sweep-0")
    log = pair.well("kube", "logs", "sweep-0", "--pod", "sweep-0-workers-0")
    assert "Ray runtime started." in log
    assert log != pair.well("kube", "logs", "sweep-0")


def test_a_tunnel_opens_and_comes_back(pair: Lab) -> None:
    """Dashboard, Ray client, and a Prometheus that is seen; another port where the usual one is in use."""
    ports = [{"name": "web", "port": 9090, "targetPort": 8265}]
    service = {"metadata": {"name": "team-prometheus"}, "spec": {"ports": ports}}
    service["spec"]["selector"] = {"ray.io/cluster": "sweep-1", "ray.io/node-type": "head"}
    pair.api.create("services", "lab", service)
    with pair.terminal("cluster", "tunnel", "sweep-0", "--prometheus") as tunnel:
        tunnel.until("the dashboard asks for the token")
        pages = dict(line.strip().split(": ", 1) for line in tunnel.text.splitlines() if "://localhost" in line)
        here = {name: int(text.split()[0].rpartition(":")[2]) for name, text in pages.items()}
        assert list(here) == ["dashboard", "Ray client", "Prometheus"]
        assert pages["Ray client"].startswith("ray://")
        assert until(lambda: status(here["dashboard"]) == status(here["Prometheus"]) == 401, 20), tunnel.text
        with pair.terminal("cluster", "tunnel", "sweep-1") as second:
            second.until(f"({here['dashboard']} is in use here)")
            second.type("\x03")
            assert second.wait() == 130
        pair.outage()
        tunnel.until("the forward ended with ")
        pair.comes_back()
        assert until(lambda: status(here["dashboard"]) == 401, 30), tunnel.text
        tunnel.type("\x03")
        assert tunnel.wait() == 130, tunnel.text
    assert [status(port) for port in here.values()] == [0, 0, 0]


def status(port: int) -> int:
    """What a page answers who brings no token; 0 where nobody does."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200


def test_the_port_of_a_registered_cluster_comes_back(pair: Lab) -> None:
    """Also while a command waits for its answer."""
    pair.outage()
    time.sleep(1)
    assert pair.run("job", "list", "--cluster", "sweep-0", seconds=30).returncode == 78
    pair.comes_back()
    pair.well("job", "submit", "--cluster", "sweep-0", "--follow", "--", "true")


def test_clusters_change_and_go(pair: Lab) -> None:
    """Scaled, and what is known of it changes; stopped; deleted. Nothing is left."""
    pair.well("kube", "scale", "sweep-1", "0")
    assert until(lambda: len(pair.api.list("pods", "lab", "ray.io/cluster=sweep-1")) == 1, 10)
    assert until(lambda: clusters(pair)["sweep-1"] == ("alive", 1, 1.0), 20)
    checked = json.loads(pair.well("cluster", "check", "--json"))
    assert [(len(each["nodes"]), each["findings"]) for each in checked] == [(2, []), (1, [])]
    done = pair.run("cluster", "stop", "sweep-1")
    assert (done.returncode, "deleted, as " in done.stderr) == (0, True), done.stderr
    assert pair.names("rayclusters") == ["sweep-0"]
    done = pair.run(*on_the_page("kube", "delete"))
    assert (done.returncode, done.stdout.count("RayCluster")) == (0, 1), done.stderr
    assert clusters(pair) == {}
    # Of sweep-1, which its own process has deleted, the line stays until a command writes the file.
    assert "sweep-0" not in (pair.directory / ".ray_address").read_text()
    assert until(lambda: not operator_of(pair).processes, 20)


def test_a_job_brings_its_directory_and_its_code(lab: Lab) -> None:
    words = ("--name", "j", "--ttl", "20", "--working-dir", str(lab.directory))
    done = lab.run("kube", "job", *SMALL, *words, "--", "count.py", "9")
    assert done.returncode == 9, done.stderr
    assert "result 9 2 2.0 9" in done.stdout
    (name,) = lab.names("rayjobs")
    assert until(lambda: lab.api.list("rayjobs")[0]["status"]["jobDeploymentStatus"] == "Failed", 20)
    assert until(lambda: lab.api.list("rayclusters") == [], 40)
    assert until(lambda: not operator_of(lab).processes, 20)
    assert until(lambda: clusters(lab) == {}, 30)
    # The job itself stays, without a cluster.
    assert "Failed FAILED" in lab.well("kube", "show", name)
    assert lab.run("kube", "logs", name).returncode == 2
    lab.well("kube", "delete", name, "--yes")
    assert lab.names("rayjobs") == []


def test_ctrl_c_detaches_from_a_job(lab: Lab) -> None:
    """Followed while the server goes away; left; found again; its cluster's end is its own."""
    with lab.terminal("kube", "job", *SMALL, "--name", "j", "--", "tick.py") as shown:
        shown.until("tick 3\n", 90)
        lab.outage()
        time.sleep(1)
        lab.comes_back()
        seen = max(int(line.split()[1]) for line in shown.text.splitlines() if line.startswith("tick "))
        shown.until(f"tick {seen + 20}\n", 60)
        shown.type("\x03")
        assert shown.wait() == 130, shown.text
    (name,) = lab.names("rayjobs")
    assert f"detached: job {name} goes on\n" in shown.text
    assert f"  rayhpc job logs -f {name}\n" in shown.text
    assert lab.api.get("rayjobs", "lab", name)["status"]["jobStatus"] == "RUNNING"
    (entry,) = lab.directory.glob("state/clusters/*/cluster.json")
    agent = json.loads(entry.read_text())["pid"]
    os.kill(agent, signal.SIGKILL)  # as by a restart of this host
    assert until(lambda: not Path(f"/proc/{agent}").exists(), 10)
    assert lab.well("kube", "address", name).startswith(f"{name}-")
    assert json.loads(entry.read_text())["pid"] != agent
    with lab.terminal("job", "logs", "-f", name) as shown:
        shown.until("tick 3\n")
        shown.type("\x03")
        assert shown.wait() == 130
    (cluster,) = clusters(lab)
    done = lab.run("cluster", "stop", cluster)
    assert done.returncode == 0, done.stderr
    assert (lab.names("rayjobs"), lab.names("rayclusters")) == ([], [])
