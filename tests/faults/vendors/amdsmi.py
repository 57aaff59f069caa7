"""A stand-in for AMD's management library: a host of two GPUs, as far as Ray asks."""

from __future__ import annotations

from enum import IntEnum


class AmdSmiInitFlags(IntEnum):
    INIT_AMD_GPUS = 2


class AmdSmiMemoryType(IntEnum):
    VRAM = 0


class AmdSmiLibraryException(Exception):
    pass


def amdsmi_init(flags: int) -> None:
    assert flags == AmdSmiInitFlags.INIT_AMD_GPUS


def amdsmi_get_processor_handles() -> list[int]:
    return [0, 1]


def amdsmi_shut_down() -> None:
    pass
