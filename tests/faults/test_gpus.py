"""A host of two GPUs for two ranks, whoever made them: each rank's Ray node has one, and its tasks see that one.

Stand-ins for the vendors' libraries, in vendors/, answer the questions that Ray asks when it is imported.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.cells import INPUT, Cell, met
from tests.launch import Jobs

VENDORS = Path(__file__).with_name("vendors")
SEES = """
import json, os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False)
names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
seen = ray.remote(num_gpus=1)(lambda: {name: os.environ[name] for name in names if name in os.environ})
nodes = sorted(ray.nodes(), key=lambda node: node["Labels"]["rayhpc-rank"])
tasks = [seen.options(scheduling_strategy=On(node["NodeID"], False)).remote() for node in nodes]
print("SEEN", json.dumps(ray.get(tasks)))
"""


def nvidia(scratch: Path) -> dict[str, str]:
    library = scratch / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, VENDORS / "nvml.c"], check=True)
    return {"LD_LIBRARY_PATH": str(scratch)}


def python_package(name: str) -> Callable[[Path], dict[str, str]]:
    def provide(scratch: Path) -> dict[str, str]:
        (scratch / f"{name}.py").symlink_to(VENDORS / f"{name}.py")
        return {"PYTHONPATH": str(scratch)}

    return provide


AMD, INTEL = python_package("amdsmi"), python_package("dpctl")
EVERY = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("vendor", "env", "variable", "ids"),
    [
        (nvidia, {"CUDA_VISIBLE_DEVICES": "2,3"}, "CUDA_VISIBLE_DEVICES", ("2", "3")),
        (AMD, {"ROCR_VISIBLE_DEVICES": "2,3"}, "HIP_VISIBLE_DEVICES", ("0", "1")),
        (AMD, {"HIP_VISIBLE_DEVICES": "2,3"}, "HIP_VISIBLE_DEVICES", ("2", "3")),
        (AMD, dict.fromkeys(EVERY, "2,3"), "HIP_VISIBLE_DEVICES", ("0", "1")),
        (INTEL, {"ZE_AFFINITY_MASK": "2,3"}, "ZE_AFFINITY_MASK", ("2", "3")),
        (INTEL, {"ONEAPI_DEVICE_SELECTOR": "level_zero:2,3"}, "ZE_AFFINITY_MASK", ("2", "3")),
        (INTEL, dict.fromkeys(EVERY, "2,3"), "ZE_AFFINITY_MASK", ("2", "3")),
    ],
    ids=["nvidia", "amd-rocr", "amd-hip", "amd-all-variables", "intel-ze", "intel-oneapi", "intel-all-variables"],
)
def test_each_rank_has_its_gpu(
    jobs: Jobs,
    vendor: Callable[[Path], dict[str, str]],
    env: dict[str, str],
    variable: str,
    ids: tuple[str, str],
) -> None:
    scratch = jobs.directory / "vendor"
    scratch.mkdir()
    (jobs.directory / "job").mkdir()
    (jobs.directory / "job/sees.py").write_text(SEES)
    job = jobs.start("sees.py", ranks=2, env={**vendor(scratch), **env})
    assert job.wait() == 0, job.output()
    (line,) = [line for line in job.output().splitlines() if line.startswith("SEEN ")]
    assert [seen[variable] for seen in json.loads(line[5:])] == list(ids), job.output()
    met(Cell(INPUT, f"two ranks, two GPUs, {', '.join(env)}", f"0, each rank has one, by {variable}"))
