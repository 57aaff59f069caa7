"""The GPUs that this process may use; run as a program it prints how many there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rayhpc.host.gpu_variables import CUDA, HIERARCHY, HIP, ROCR, SELECTOR, ZE, for_ray, listed
from rayhpc.model import Gpus

_CARDS = Path("/sys/class/drm")
# PCI's vendor and class of Intel's GPUs for computing; those of a workstation's screen are of class 0x0300.
_INTEL, _COMPUTING = "0x8086", "0x0380"


def find(environ: Mapping[str, str]) -> Gpus:
    """GPUs by the vendors' variables, else the devices of the host.

    An empty variable, -1 or NoDevFiles means none. UUIDs and MIG names are kept as they are. Where several variables
    are set, as Slurm does without AutoDetect, the one of the host's devices counts, else the first.
    """
    named = [Gpus(name, ids := listed(environ[name]), _devices(name, ids, environ)) for name in (CUDA, HIP, ZE)
             if name in environ]  # fmt: skip
    if named:
        on_host = _on_host(environ)
        first = next((entry for entry in named if on_host.get(entry.variable)), named[0])
        return replace(first, others=tuple(entry for entry in named if entry is not first))
    for variable, count in _on_host(environ).items():
        if count:
            return Gpus(variable, tuple(str(n) for n in range(_granted(count, environ))))
    return Gpus(ZE) if SELECTOR in environ else Gpus()


def _on_host(environ: Mapping[str, str]) -> dict[str, int]:
    """GPUs of the host for each vendor that can be counted without its library."""
    nvidia = Path("/proc/driver/nvidia/gpus").glob("*")
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")  # those of CPUs have the id 0
    amd = sum(_text(node) not in ("", "0") for node in nodes)  # an MI250X has two: each of its dies is a node
    return {CUDA: len(list(nvidia)), HIP: amd, ZE: _intel(environ.get(HIERARCHY, "FLAT").upper() == "COMPOSITE")}


def _intel(composite: bool) -> int:
    """Intel's devices as Level Zero numbers them: each tile is one, but in the composite hierarchy each card."""
    count = 0
    for vendor in _CARDS.glob("card[0-9]*/device/vendor"):
        device, card = vendor.parent, vendor.parents[1]
        if _text(vendor) == _INTEL and _text(device / "class").startswith(_COMPUTING):
            # The driver i915 shows a tile as a gt, its successor xe as a tile.
            tiles = max(len(list(card.glob("gt/gt[0-9]*"))), len(list(device.glob("tile[0-9]*"))))
            count += 1 if composite else max(1, tiles)
    return count


def _text(file: Path) -> str:
    """A kernel file's text; empty where it may not be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _granted(count: int, environ: Mapping[str, str]) -> int:
    """As many of the host's GPUs as Slurm has granted: with --gpu-bind=none it sets no vendor's variable."""
    granted = environ.get("SLURM_GPUS_ON_NODE", "")
    return min(count, int(granted)) if granted.isdecimal() else count


def _devices(variable: str, ids: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """What tells a GPU from those of the host's other ranks, where its id is a number within this rank's own list."""
    outer = listed(environ.get(ROCR, "")) if variable == HIP else ()
    if not outer:
        return _on_slurm(ids, environ)
    numbered = dict(zip(map(str, range(len(outer))), _on_slurm(outer, environ), strict=True))
    return tuple(numbered.get(n, n) for n in ids)


def _on_slurm(ids: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The host's numbers of GPUs that Slurm may show each task from 0: it lists a bound task's in SLURM_STEP_GPUS."""
    step = listed(environ.get("SLURM_STEP_GPUS", ""))
    if step and len(step) == len(ids):
        return step
    if environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2] == str(len(ids)):
        return tuple(f"{environ.get('SLURM_LOCALID', '')}:{n}" for n in ids)
    return ids


if __name__ == "__main__":
    print(len(find({**os.environ, **for_ray(os.environ)}).ids))
