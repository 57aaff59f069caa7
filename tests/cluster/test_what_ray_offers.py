"""What users of Ray expect of any cluster: its own commands, its state API and its libraries, without --dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.launch import Job, Jobs, until

pytestmark = pytest.mark.cluster

COUNT = "import ray,sys; ray.init(log_to_driver=False); print('nodes', len(ray.nodes())); sys.exit(7)"
RAY = """
import subprocess, sys
done = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *sys.argv[1:]], capture_output=True, text=True)
print(done.returncode, done.stdout, done.stderr, flush=True)
"""
STATE = """
import time, ray
from ray.util.state import get_actor, list_actors, list_nodes, list_placement_groups, list_tasks

ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
class Counter:
    def here(self):
        return ray.get_runtime_context().get_actor_id()

counter = Counter.options(name="one").remote()
identity = ray.get(counter.here.remote())
group = ray.util.placement_group([{"CPU": 1}])
ray.get(group.ready())
began = time.monotonic()
nodes = list_nodes(detail=True)
assert {node.state for node in nodes} == {"ALIVE"} and sum(node.is_head_node for node in nodes) == 1, nodes
assert {node.labels["rayhpc-rank"] for node in nodes} == {"0", "1"}, nodes
assert all(node.start_time_ms > 1.7e12 for node in nodes), nodes
assert {node.node_id for node in nodes} == {node["NodeID"] for node in ray.nodes()}
assert len(list_nodes(limit=1)) == 1
assert get_actor(identity).name == "one"
wanted = [("class_name", "=", "Counter"), ("state", "!=", "DEAD")]
assert [actor.actor_id for actor in list_actors(filters=wanted)] == [identity]
assert list_actors(filters=[("name", "=", "another")]) == []
assert [entry.placement_group_id for entry in list_placement_groups()] == [group.id.hex()]
try:
    list_tasks()
except Exception as error:
    assert "--dashboard" in str(error), error
else:
    raise SystemExit("tasks were listed")
print("asked for", time.monotonic() - began, flush=True)
"""
STRANGER = """
import json, os, urllib.error, urllib.request, ray
from ray._private import ray_constants
ray.init(log_to_driver=False)
client = ray._private.worker.global_worker.gcs_client
key, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
url = f"http://{client.internal_kv_get(key, namespace).decode()}/api/v0/nodes"
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
codes = []
for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {token}"}):
    try:
        codes.append(urllib.request.urlopen(urllib.request.Request(url, headers=header)).status)
    except urllib.error.HTTPError as error:
        codes.append(error.code)
print("codes", json.dumps(codes), flush=True)
"""
TRAIN = """
import time
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def loop():
    for step in range(3):
        time.sleep(1)
        train.report({"step": step})

trainer = TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path="/{here}"))
trainer.fit()
print("it is", "done", flush=True)
"""
TUNE = """
from ray import tune

def trial(config):
    for step in range(2):
        tune.report({"score": config["a"] * step})

where = tune.RunConfig(storage_path="/{here}")
tuner = tune.Tuner(trial, param_space={"a": tune.grid_search([1, 2])}, run_config=where)
assert tuner.fit().get_best_result("score", "max").metrics["score"] == 2
print("it is", "done", flush=True)
"""
DATA = """
import ray
assert ray.data.range(100).map(lambda row: {"id": row["id"] * 2}).sum("id") == 9900
print("it is", "done", flush=True)
"""
SERVE = """
import urllib.request
from ray import serve

@serve.deployment
class Hello:
    async def __call__(self, request):
        return "hello"

serve.start(http_options={"host": "127.0.0.1", "port": 0})
handle = serve.run(Hello.bind(), route_prefix=None)
serve.shutdown()
print("it is", "done", flush=True)
"""
# What a library says that did not find what it looked for.
TROUBLE = re.compile(r"Traceback|Could not read|State API|did not exit|API server|raise_on|unavailable", re.IGNORECASE)


def output_of(job: Job, code: int = 0, seconds: float = 150) -> str:
    assert job.wait(seconds) == code, job.output()
    return job.output()


@pytest.mark.oldest
@pytest.mark.parametrize("ranks", [1, 2])
def test_ray_as_it_is(jobs: Jobs, ranks: int) -> None:
    """RAYHPC_RAY_PATCHES=0: Ray starts all its programs; rank 0 reads the node table with public functions."""
    job = jobs.start("--", "python", "-c", COUNT, ranks=ranks, env={"RAYHPC_RAY_PATCHES": "0"})
    output = output_of(job, 7)
    assert f"nodes {ranks}\n" in output
    assert f"{ranks}/{ranks} Ray nodes, " in output
    assert "ray.init" in (job.run / "rank-0.log").read_text()  # what Ray's own command advises


def test_ray_as_it_is_with_its_dashboard(jobs_with_dashboard: Jobs) -> None:
    job = jobs_with_dashboard.start(
        "--dashboard", "--", "python", "-c", COUNT, ranks=1, env={"RAYHPC_RAY_PATCHES": "0"}
    )
    output_of(job, 7)


@pytest.mark.oldest
def test_ray_status(jobs: Jobs) -> None:
    output = output_of(jobs.start("--num-cpus=1", "--", "python", "-c", RAY, "status", ranks=2))
    assert "No cluster status" not in output
    assert "0.0/2.0 CPU" in output
    assert output.count(" 1 node_") == 2


@pytest.mark.parametrize("which", ["jobs", "jobs_with_dashboard"])
def test_the_state_api(which: str, request: pytest.FixtureRequest) -> None:
    """What the GCS knows is told; all else is refused at once, with the option that would answer."""
    output = output_of(request.getfixturevalue(which).start("--num-cpus=1", "--", "python", "-c", STATE, ranks=2))
    found = re.search(r"asked for ([\d.]+)", output)
    assert found and float(found[1]) < 10, output


def test_the_state_api_asks_for_the_token(jobs: Jobs) -> None:
    assert "codes [401, 403, 200]" in output_of(jobs.start("--", "python", "-c", STRANGER, ranks=1))


def test_under_tls_the_state_api_refuses_at_once(jobs: Jobs) -> None:
    """It speaks HTTP: no token shall go over the network in the clear."""
    ask = (
        "import time, ray; from ray.util.state import list_nodes\n"
        "ray.init(log_to_driver=False); began = time.monotonic()\n"
        "try: list_nodes()\n"
        "except Exception as error: print(type(error).__name__, time.monotonic() - began < 5, flush=True)\n"
    )
    assert "ServerUnavailable True" in output_of(jobs.start("--tls", "--", "python", "-c", ask, ranks=1))


@pytest.mark.parametrize("script", [TRAIN, TUNE, DATA], ids=["train", "tune", "data"])
def test_rays_libraries_run_clean(jobs: Jobs, script: str) -> None:
    where = jobs.directory / "storage"
    where.mkdir()
    text = script.replace("/{here}", str(where))
    output = output_of(jobs.start("--num-cpus=3", "--", "python", "-c", text, ranks=1))
    assert "it is done" in output
    assert not TROUBLE.search(output.partition("driver: ")[2].partition("it is")[2]), output


def test_ray_serve_runs_clean(jobs_with_dashboard: Jobs) -> None:
    """ray[serve] brings the packages of ray[default]."""
    output = output_of(jobs_with_dashboard.start("--num-cpus=3", "--", "python", "-c", SERVE, ranks=1))
    assert "it is done" in output
    assert not TROUBLE.search(output.partition("driver: ")[2].partition("it is")[2]), output


def test_a_timeline_lands_in_the_run_directory(jobs: Jobs) -> None:
    job = jobs.start("--", "python", "-c", RAY, "timeline", ranks=1)
    output_of(job)
    (kept,) = job.run.glob("ray-timeline-*.json")
    assert isinstance(json.loads(kept.read_text()), list)


def test_a_driver_that_sizes_the_cluster(jobs: Jobs) -> None:
    output = output_of(jobs.start("--", "python", "-c", "import ray\nray.init(num_cpus=4)", ranks=1), 1)
    assert "num_cpus and num_gpus must not be provided" in output
    assert "if Ray refused ray.init(num_cpus=...) in line 2: leave that out of the driver" in output


def without_ray(directory: Path, everywhere: bool) -> dict[str, str]:
    """An environment in which Ray is not installed, for all ranks or for rank 1 alone."""
    (directory / "sitecustomize.py").write_text(
        "import os, sys\n"
        "from importlib.machinery import PathFinder\n"
        "import importlib.metadata, pathlib\n"
        "def rank():\n"
        "    return os.environ.get('PMI_RANK', '0')\n"
        f"if {everywhere} or rank() == '1':\n"
        "    glob = pathlib.Path.glob\n"
        "    none = lambda self, what, **more: iter(()) if what.startswith('ray-') else glob(self, what, **more)\n"
        "    pathlib.Path.glob = none\n"
        "    version = importlib.metadata.version\n"
        "    def of(name):\n"
        "        if name == 'ray':\n"
        "            raise importlib.metadata.PackageNotFoundError(name)\n"
        "        return version(name)\n"
        "    importlib.metadata.version = of\n"
    )
    return {"PYTHONPATH": str(directory)}


@pytest.mark.parametrize(("everywhere", "ranks"), [(True, "rank 0 on .*, rank 1 on "), (False, "rank 1 on ")])
def test_no_ray_in_the_environment(jobs: Jobs, tmp_path: Path, everywhere: bool, ranks: str) -> None:
    job = jobs.start("--", "true", ranks=2, env=without_ray(tmp_path, everywhere))
    output = output_of(job, 78)
    assert re.search(rf"rayhpc: ray cannot be imported  \[{ranks}", output), output
    assert "pip install 'ray[rllib]'" in output
    assert "bug" not in output


def test_a_ray_that_cannot_be_imported(jobs: Jobs, tmp_path: Path) -> None:
    """It is installed, but one of its packages is broken."""
    (tmp_path / "msgpack.py").write_text("raise ImportError('libbroken.so.1: cannot open shared object file')\n")
    output = output_of(jobs.start("--", "true", ranks=1, env={"PYTHONPATH": str(tmp_path)}), 78)
    assert "rayhpc: Ray cannot be imported: ImportError: libbroken.so.1" in output
    assert "pip install 'ray[rllib]'" in output


def test_an_environment_that_ray_made_keeps_nobody(jobs: Jobs) -> None:
    """40,000 files below the private directory, as runtime_env={"pip": ...} leaves them: they go, and nobody waits."""
    make = (
        "import os, ray\n"
        "ray.init(log_to_driver=False)\n"
        "base = ray.get_runtime_context().get_temp_dir()\n"
        "for number in range(400):\n"
        "    os.makedirs(f'{base}/clone/{number}')\n"
        "    for name in range(100):\n"
        "        open(f'{base}/clone/{number}/{name}', 'w').close()\n"
        "print('made', base, flush=True)\n"
    )
    job = jobs.start("--", "python", "-c", make, ranks=1)
    output = output_of(job)
    found = re.search(r"shut down in ([\d.]+) s", output)
    assert found and float(found[1]) < 4, output
    base = Path(job.until(r"made (\S+)/r\n")[1])
    assert not base.exists()
    assert until(lambda: not base.with_name(f"{base.name}.removed").exists(), 60)
