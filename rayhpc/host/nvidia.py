"""What NVIDIA's management library says of this host's GPUs. The only user of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_TEXT = 96
_MOST_PROCESSES = 64
_TOO_SMALL = 7  # NVML_ERROR_INSUFFICIENT_SIZE: there are more processes than places


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of version 2 and 3."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


@dataclass(frozen=True)
class Device:
    """A GPU. pids: of processes that compute on it; persistent, mig: None where it cannot say."""

    uuid: str
    pids: tuple[int, ...]
    persistent: bool | None
    mig: bool | None


@dataclass(frozen=True)
class Driver:
    """The driver and its GPUs."""

    version: str
    devices: tuple[Device, ...]


def ask() -> Driver:
    """What the driver says; raises OSError where there is no library, or it refuses."""
    library = ctypes.CDLL(_LIBRARY)
    if code := library.nvmlInitWithFlags(0):
        raise OSError(f"NVML cannot be initialised: {_reason(library, code)}")
    try:
        count = ctypes.c_uint()
        if code := library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            raise OSError(f"NVML cannot count the GPUs: {_reason(library, code)}")
        version = _text(lambda buffer: library.nvmlSystemGetDriverVersion(buffer, _TEXT))
        return Driver(version, tuple(_device(library, place) for place in range(count.value)))
    finally:
        library.nvmlShutdown()


def _device(library: Any, place: int) -> Device:
    handle = ctypes.c_void_p()
    if code := library.nvmlDeviceGetHandleByIndex_v2(place, ctypes.byref(handle)):
        raise OSError(f"NVML cannot open GPU {place}: {_reason(library, code)}")
    pending = ctypes.c_uint()
    return Device(
        uuid=_text(lambda buffer: library.nvmlDeviceGetUUID(handle, buffer, _TEXT)),
        pids=_pids(library, handle),
        persistent=_mode(lambda mode: library.nvmlDeviceGetPersistenceMode(handle, mode)),
        mig=_mode(lambda mode: library.nvmlDeviceGetMigMode(handle, mode, ctypes.byref(pending))),
    )


def _pids(library: Any, handle: ctypes.c_void_p) -> tuple[int, ...]:
    found, many = (_Process * _MOST_PROCESSES)(), ctypes.c_uint(_MOST_PROCESSES)
    code = library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(many), found)
    return tuple(entry.pid for entry in found[: min(many.value, _MOST_PROCESSES)]) if code in (0, _TOO_SMALL) else ()


def _mode(ask_for: Callable[[Any], int]) -> bool | None:
    mode = ctypes.c_uint()
    return None if ask_for(ctypes.byref(mode)) else bool(mode.value)


def _text(ask_for: Callable[[Any], int]) -> str:
    buffer = ctypes.create_string_buffer(_TEXT)
    return "" if ask_for(buffer) else buffer.value.decode(errors="replace")


def _reason(library: Any, code: int) -> str:
    library.nvmlErrorString.restype = ctypes.c_char_p
    return str((library.nvmlErrorString(code) or b"").decode(errors="replace")) or f"error {code}"
