"""Checks of the GPUs that a rank may use; silent on a host without."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from rayhpc.doctor.checks_python import run_python
from rayhpc.doctor.here import Here
from rayhpc.errors import counted
from rayhpc.finding import Finding, fail, warn
from rayhpc.host import nvidia
from rayhpc.host.gpu_variables import CUDA, HIERARCHY, HIP, ROCR, ZE, listed
from rayhpc.host.nvidia import Device, Driver


def _driver(here: Here) -> Driver | None:
    """NVIDIA's driver, where this rank has GPUs of that kind and the driver answers."""
    if here.gpus.variable != CUDA or not here.gpus.ids:
        return None
    try:
        return nvidia.ask()
    except OSError:
        return None  # gpu_driver says so


def _ours(here: Here, driver: Driver) -> list[Device]:
    """The GPUs of the host that this rank may use, by their numbers or names; all of it where they are named else."""
    ids = here.gpus.devices or here.gpus.ids
    numbered = dict(enumerate(driver.devices))
    by_name = [device for device in driver.devices if any(word and device.uuid.startswith(word) for word in ids)]
    by_number = [numbered[int(word)] for word in ids if word.isdigit() and int(word) in numbered]
    return by_name or by_number or list(driver.devices)


def gpu_driver(here: Here) -> Iterator[Finding]:
    """NVIDIA's driver answers where GPUs of that kind were granted.

    After an update without a reboot the library and the kernel's module differ: every CUDA program fails then.
    """
    if here.gpus.variable == CUDA and here.gpus.ids:
        try:
            nvidia.ask()
        except OSError as error:
            yield fail(
                f"{CUDA} names GPUs, and NVIDIA's driver does not answer",
                str(error),
                f"{CUDA}={','.join(here.gpus.ids)}",
                next_step="leave this host out, and tell the site; a container needs --nv or --gpus",
            )


def gpu_count(here: Here) -> Iterator[Finding]:
    """The host has the GPUs that were granted, and their variable names no others.

    A GPU that has fallen off the bus is still granted by the scheduler.
    """
    granted = here.environ.get("SLURM_GPUS_ON_NODE", "")
    driver = _driver(here)
    numbers = [int(word) for word in here.gpus.ids if word.isdigit()]
    if driver and numbers and max(numbers) >= len(driver.devices):
        yield fail(
            f"{CUDA} names GPUs that this host does not have",
            f"{CUDA}={','.join(here.gpus.ids)}; the driver has {counted(len(driver.devices), 'GPU')}",
            next_step="correct the variable; a GPU that has failed: leave this host out, and tell the site",
        )
    elif granted.isdecimal() and here.gpus.ids == () and int(granted):
        yield fail(
            f"Slurm has granted {counted(int(granted), 'GPU')} on this host, and this rank sees none",
            f"SLURM_GPUS_ON_NODE={granted}; {here.gpus.variable}={here.environ.get(here.gpus.variable, 'not set')}",
            next_step="srun --gpus-per-task or --gpu-bind=none; leave the host out if others see theirs",
        )


def gpu_busy(here: Here) -> Iterator[Finding]:
    """Nobody else computes on the GPUs of this rank.

    A process that an earlier job has left keeps memory: training then fails with out of memory, on that host alone.
    """
    driver = _driver(here)
    for device in _ours(here, driver) if driver else ():
        if device.pids:
            yield warn(
                "a process computes on a GPU of this job already",
                f"{device.uuid}: pid {', '.join(map(str, device.pids))}",
                next_step="end it if it is yours (nvidia-smi shows it); else leave this host out, and tell the site",
            )


def gpu_persistence(here: Here) -> Iterator[Finding]:
    """Persistence mode is on: the driver stays loaded between two programs.

    Without it each first CUDA call on an idle host takes seconds, in every process that Ray starts.
    """
    driver = _driver(here)
    if driver and any(device.persistent is False for device in _ours(here, driver)):
        yield warn(
            "persistence mode of the GPUs is off: each program begins some seconds later",
            f"driver {driver.version}",
            next_step="ask the site for nvidia-persistenced",
        )


def gpu_mig(here: Here) -> Iterator[Finding]:
    """A GPU that is divided by MIG is named by its parts.

    A number names a whole GPU, and CUDA sees the first part of it alone, or none.
    """
    driver = _driver(here)
    whole = [word for word in here.gpus.ids if not word.startswith("MIG-")]
    if driver and whole and any(device.mig for device in _ours(here, driver)):
        yield warn(
            f"MIG divides the GPUs of this host, and {CUDA} names whole ones",
            f"{CUDA}={','.join(here.gpus.ids)}",
            next_step="name the parts (nvidia-smi -L): MIG-…; or ask for hosts without MIG",
        )


def gpu_torch(here: Here) -> Iterator[Finding]:
    """torch sees as many GPUs as the rank has.

    A torch for CPUs only, or for a newer driver, trains on the CPU without a word.
    """
    if here.gpus.variable == ZE or not here.gpus.ids or find_spec("torch") is None:
        return
    code, said, _ = run_python("import torch; print(torch.cuda.device_count(), torch.__version__)", here)
    seen, _, version = said.partition(" ")
    if code or not seen.isdigit() or int(seen) < len(here.gpus.ids):
        yield fail(
            f"this rank has {counted(len(here.gpus.ids), 'GPU')}, and torch sees {'none' if code else seen}",
            said if code else f"torch {version}",
            next_step="install the torch of this driver: https://pytorch.org/get-started/locally",
        )


def gpu_variables(here: Here) -> Iterator[Finding]:
    """AMD: HIP_VISIBLE_DEVICES counts within the list of ROCR_VISIBLE_DEVICES.

    ROCR takes GPUs away, then HIP numbers those that are left from 0. The host's numbers in both leave none.
    """
    outer, inner = (listed(here.environ.get(name, "")) for name in (ROCR, HIP))
    if outer and any(word.isdigit() and int(word) >= len(outer) for word in inner):
        yield fail(
            f"{HIP} names GPUs that {ROCR} has taken away",
            f"{ROCR}={','.join(outer)}",
            f"{HIP}={','.join(inner)}",
            next_step=f"unset {HIP}: rayhpc counts within {ROCR}",
        )


def gpu_tiles(here: Here) -> Iterator[Finding]:
    """Intel: ZE_AFFINITY_MASK names tiles only where the devices are composite.

    In the flat hierarchy, today's default, each tile is a device, and 0.1 names none of them.
    """
    mask = listed(here.environ.get(ZE, ""))
    hierarchy = here.environ.get(HIERARCHY, "FLAT").upper()
    if hierarchy != "COMPOSITE" and any("." in word for word in mask):
        yield warn(
            f"{ZE} names tiles, and {HIERARCHY} is {hierarchy}",
            f"{ZE}={','.join(mask)}",
            next_step=f"{HIERARCHY}=COMPOSITE, or number the tiles as devices",
        )
