"""The GPUs of a rank, and the variables that name them; /proc and /sys are replaced by tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayhpc.host import gpu_variables, gpus
from rayhpc.model import Gpus


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, Gpus("CUDA_VISIBLE_DEVICES", ("0", "1"))),
        ({"CUDA_VISIBLE_DEVICES": " 2 , 3 ,"}, Gpus("CUDA_VISIBLE_DEVICES", ("2", "3"))),
        ({"CUDA_VISIBLE_DEVICES": "GPU-4a1,GPU-9c2"}, Gpus("CUDA_VISIBLE_DEVICES", ("GPU-4a1", "GPU-9c2"))),
        ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-4a1/1/0"}, Gpus("CUDA_VISIBLE_DEVICES", ("MIG-GPU-4a1/1/0",))),
        ({"CUDA_VISIBLE_DEVICES": ""}, Gpus("CUDA_VISIBLE_DEVICES", ())),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, Gpus("CUDA_VISIBLE_DEVICES", ())),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, Gpus("CUDA_VISIBLE_DEVICES", ())),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, Gpus("HIP_VISIBLE_DEVICES", ("0", "1"))),
        ({"ZE_AFFINITY_MASK": "0.0,0.1"}, Gpus("ZE_AFFINITY_MASK", ("0.0", "0.1"))),
        ({"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": "0,1"}, Gpus("HIP_VISIBLE_DEVICES", ("0", "1"))),
    ],
)
def test_gpus_by_the_vendors_variable(environ: dict[str, str], expected: Gpus) -> None:
    assert gpus.find(environ) == expected


class FakePath:
    """Directories of /proc and /sys with so many entries."""

    entries: dict[str, list[str]]

    def __init__(self, path: str) -> None:
        self._path = path

    def glob(self, _: str) -> list[str]:
        return self.entries.get(self._path, [])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, Gpus()),
        ({"/proc/driver/nvidia/gpus": ["a", "b"]}, Gpus("CUDA_VISIBLE_DEVICES", ("0", "1"))),
        # The first node of AMD's topology is the CPU: its gpu_id is 0.
        (
            {"/sys/class/kfd/kfd/topology/nodes": ["cpu", "gpu", "gpu", "none"]},
            Gpus("HIP_VISIBLE_DEVICES", ("0", "1")),
        ),
    ],
)
def test_gpus_by_the_devices(monkeypatch: pytest.MonkeyPatch, entries: dict[str, list[str]], expected: Gpus) -> None:
    monkeypatch.setattr(gpus, "_text", lambda node: {"cpu": "0", "gpu": "51234"}.get(str(node), ""))
    FakePath.entries = entries
    monkeypatch.setattr(gpus, "Path", FakePath)
    assert gpus.find({}) == expected


@pytest.mark.parametrize(
    ("environ", "added"),
    [
        ({}, {}),
        ({"CUDA_VISIBLE_DEVICES": "0"}, {}),
        ({"ROCR_VISIBLE_DEVICES": "4,5,6"}, {"HIP_VISIBLE_DEVICES": "0,1,2"}),
        ({"ROCR_VISIBLE_DEVICES": ""}, {"HIP_VISIBLE_DEVICES": ""}),
        ({"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": "1"}, {}),
        ({"ZE_AFFINITY_MASK": "4,5"}, {}),
        (
            {"ONEAPI_DEVICE_SELECTOR": "level_zero:2,3"},
            {"ZE_AFFINITY_MASK": "2,3", "ONEAPI_DEVICE_SELECTOR": "level_zero:0,1"},
        ),
        (
            {"ONEAPI_DEVICE_SELECTOR": "level_zero:1", "ZE_AFFINITY_MASK": "4,5"},
            {"ZE_AFFINITY_MASK": "5", "ONEAPI_DEVICE_SELECTOR": "level_zero:0"},
        ),
        # Both with the numbers of the whole host: the selector alone would choose none of the two.
        (
            {"ONEAPI_DEVICE_SELECTOR": "level_zero:4,5", "ZE_AFFINITY_MASK": "4,5"},
            {"ZE_AFFINITY_MASK": "4,5", "ONEAPI_DEVICE_SELECTOR": "level_zero:0,1"},
        ),
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, {}),
        ({"ONEAPI_DEVICE_SELECTOR": "opencl:cpu;level_zero:0"}, {}),
        (
            {"CUDA_VISIBLE_DEVICES": "2,3", "ROCR_VISIBLE_DEVICES": "2,3", "ZE_AFFINITY_MASK": "2,3"},
            {"HIP_VISIBLE_DEVICES": "0,1"},
        ),
    ],
)
def test_the_variables_that_ray_needs(environ: dict[str, str], added: dict[str, str]) -> None:
    assert gpu_variables.for_ray(environ) == added
    assert {**environ, **added} == {**environ, **added, **gpu_variables.for_ray({**environ, **added})}


def test_all_variables_that_are_set_are_kept() -> None:
    """As Slurm sets them without AutoDetect; HIP's is ours."""
    environ = {"CUDA_VISIBLE_DEVICES": "2,3", "ROCR_VISIBLE_DEVICES": "2,3", "ZE_AFFINITY_MASK": "2,3"}
    found = gpus.find({**environ, **gpu_variables.for_ray(environ)})
    assert [(entry.variable, entry.ids) for entry in found.all_variables] == [
        ("CUDA_VISIBLE_DEVICES", ("2", "3")), ("HIP_VISIBLE_DEVICES", ("0", "1")), ("ZE_AFFINITY_MASK", ("2", "3")),
    ]  # fmt: skip


def test_the_variable_of_the_devices_that_are_there_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_on_host", lambda _: {"CUDA_VISIBLE_DEVICES": 0, "HIP_VISIBLE_DEVICES": 4})
    found = gpus.find({"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "0,1"})
    assert (found.variable, found.ids, found.devices) == ("HIP_VISIBLE_DEVICES", ("0", "1"), ("2", "3"))


def test_oneapi_without_numbers_names_intels_variable() -> None:
    """So that --num-gpus makes up the ids of this vendor."""
    assert gpus.find({"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}) == Gpus("ZE_AFFINITY_MASK")


@pytest.mark.parametrize(("granted", "count"), [("2", 2), ("9", 4), ("", 4)])
def test_a_job_that_sees_all_gpus_takes_its_own(monkeypatch: pytest.MonkeyPatch, granted: str, count: int) -> None:
    """Slurm's --gpu-bind=none sets no vendor's variable."""
    monkeypatch.setattr(gpus, "_on_host", lambda _: {"CUDA_VISIBLE_DEVICES": 4})
    assert len(gpus.find({"SLURM_GPUS_ON_NODE": granted}).ids) == count


# ------------------------------------------------------------ six GPUs of two tiles, and four of two dies, as in sysfs


def card(root: Path, number: int, tiles: int, driver: str, kind: str = "0x038000") -> None:
    """A card of Intel's as the kernel shows it: tiles are gt/gtN to i915, device/tileN to xe; it has a connector."""
    device = root / f"card{number}" / "device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    (device / "class").write_text(f"{kind}\n")
    for tile in range(tiles):
        place = root / f"card{number}" / "gt" / f"gt{tile}" if driver == "i915" else device / f"tile{tile}"
        place.mkdir(parents=True)
    connector = root / f"card{number}-DP-1"
    connector.mkdir()
    (connector / "device").symlink_to(f"../card{number}")


@pytest.fixture
def aurora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(6):
        card(tmp_path, number, 2, "i915" if number % 2 else "xe")
    card(tmp_path, 6, 1, "i915", kind="0x030000")  # a screen's
    other = tmp_path / "card7" / "device"  # a server's own graphics
    other.mkdir(parents=True)
    (other / "vendor").write_text("0x1a03\n")
    monkeypatch.setattr(gpus, "_CARDS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "ids"),
    [
        ({}, tuple(map(str, range(12)))),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "FLAT"}, tuple(map(str, range(12)))),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "COMBINED"}, tuple(map(str, range(12)))),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}, tuple(map(str, range(6)))),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "composite"}, tuple(map(str, range(6)))),
        ({"ZE_AFFINITY_MASK": "3"}, ("3",)),
        ({"ZE_AFFINITY_MASK": "0.0,0.1,5.1", "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}, ("0.0", "0.1", "5.1")),
        ({"ZE_AFFINITY_MASK": ""}, ()),
    ],
)
def test_the_tiles_of_aurora(aurora: Path, environ: dict[str, str], ids: tuple[str, ...]) -> None:
    assert gpus.find(environ) == Gpus("ZE_AFFINITY_MASK", ids)


def test_a_selector_of_tiles_becomes_a_mask(aurora: Path) -> None:
    environ = {"ONEAPI_DEVICE_SELECTOR": "level_zero:10,11"}
    mended = {**environ, **gpu_variables.for_ray(environ)}
    assert gpus.find(mended).ids == ("10", "11")
    assert mended["ONEAPI_DEVICE_SELECTOR"] == "level_zero:0,1"


def test_the_dies_of_frontier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four MI250X are eight GPUs: to the kernel's topology, to ROCR's variable, and to HIP, which counts within it."""
    monkeypatch.setattr(gpus, "_text", lambda node: {"cpu": "0", "gcd": "51234"}.get(str(node), ""))
    FakePath.entries = {"/sys/class/kfd/kfd/topology/nodes": ["cpu"] * 4 + ["gcd"] * 8}
    monkeypatch.setattr(gpus, "Path", FakePath)
    assert gpus.find({}) == Gpus("HIP_VISIBLE_DEVICES", tuple(map(str, range(8))))
    environ = {"ROCR_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    found = gpus.find({**environ, **gpu_variables.for_ray(environ)})
    assert (found.variable, found.ids) == ("HIP_VISIBLE_DEVICES", tuple("01234567"))
