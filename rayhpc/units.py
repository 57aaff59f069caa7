"""Durations and sizes as people write them."""

from __future__ import annotations

import re


def seconds(text: str) -> float:
    """Seconds of 3600, 90.5, MM:SS, HH:MM:SS or D-HH:MM:SS; raises ValueError for anything else."""
    match = re.fullmatch(r"(?:(\d{1,9})-)?((?:\d{1,9}:){0,2}\d{1,12}(?:\.\d+)?)", text.strip())
    if not match:
        raise ValueError(f"{text!r} is no duration: 3600, MM:SS, HH:MM:SS or D-HH:MM:SS")
    days, clock = match.groups()
    parts = [float(part) for part in clock.split(":")]
    if days:
        parts += [0.0] * (3 - len(parts))  # 1-12 is one day and twelve hours, as for Slurm
    total = 0.0
    for part in parts:
        total = total * 60 + part
    return total + int(days or 0) * 86400


def age(past: float) -> str:
    """So many seconds in one unit: 12 s, 3 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if past >= 2 * length:
            return f"{past / length:.0f} {unit}"
    return f"{past:.0f} s"


_LARGEST = 2.0**63
_SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def size(text: str) -> int:
    """Bytes of 64G, 512M, 1.5TiB or 1000000000; raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is no size: 64G, 512M or a number of bytes")
    number = float(match[1])
    if number > _LARGEST:
        raise ValueError(f"{text[:20]!r}… is no size that any host has")
    return int(number * _SIZES[match[2].lower()])
