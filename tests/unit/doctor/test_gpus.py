"""The checks of GPUs, on a stand-in for NVIDIA's library that answers what NVML's own header says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch import REPOSITORY

GPU_CHECKS = "gpu-driver,gpu-count,gpu-busy,gpu-persistence,gpu-mig,gpu-torch,gpu-variables,gpu-tiles"
TORCH = """
__version__ = "2.9.0+cu128"
class cuda:
    device_count = staticmethod(lambda: 2)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("nvml")
    source = REPOSITORY / "tests" / "faults" / "vendors" / "nvml.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made / "libnvidia-ml.so.1", source], check=True)
    return made


@pytest.fixture
def found(library: Path, tmp_path: Path) -> Callable[..., list[tuple[str, str]]]:
    """The ids and verdicts on a host of two GPUs and a torch that sees both."""

    def run(torch: str = TORCH, **environment: str) -> list[tuple[str, str]]:
        (tmp_path / "torch.py").write_text(torch)
        gpus = {"CUDA_VISIBLE_DEVICES": "0,1", "LD_LIBRARY_PATH": str(library), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "rayhpc", "doctor", "--json", "--only", GPU_CHECKS],
            env={**os.environ, **gpus, **environment}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return [(each["id"], each["verdict"]) for each in json.loads(done.stdout)["findings"]]

    return run


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1"}, []),
        ({"NVML_BROKEN": "1"}, [("gpu-driver", "fail")]),
        ({"CUDA_VISIBLE_DEVICES": "1,2"}, [("gpu-count", "fail")]),
        ({"NVML_PID": "4711"}, [("gpu-busy", "warn")]),
        ({"NVML_PID": "4711", "CUDA_VISIBLE_DEVICES": "0"}, []),
        ({"NVML_PID": "4711", "CUDA_VISIBLE_DEVICES": "GPU-1"}, [("gpu-busy", "warn")]),
        ({"NVML_NOT_PERSISTENT": "1"}, [("gpu-persistence", "warn")]),
        ({"NVML_MIG": "1"}, [("gpu-mig", "warn")]),
        ({"NVML_MIG": "1", "CUDA_VISIBLE_DEVICES": "MIG-4a,MIG-5b"}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_a_host_of_two_gpus(
    found: Callable[..., list[tuple[str, str]]], environment: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    assert found(**environment) == expected


@pytest.mark.parametrize("torch", [TORCH.replace("2", "1"), "raise OSError('libcudart.so.12')", TORCH + "boom"])
def test_a_torch_that_does_not_see_them(found: Callable[..., list[tuple[str, str]]], torch: str) -> None:
    assert found(torch) == [("gpu-torch", "fail")]
