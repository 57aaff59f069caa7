"""The variables that name a process's GPUs, made such that Ray understands them. Pure, and imports nothing.

It runs before any process of a rank imports Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

CUDA = "CUDA_VISIBLE_DEVICES"
HIP = "HIP_VISIBLE_DEVICES"
ROCR = "ROCR_VISIBLE_DEVICES"
ZE = "ZE_AFFINITY_MASK"
SELECTOR = "ONEAPI_DEVICE_SELECTOR"
HIERARCHY = "ZE_FLAT_DEVICE_HIERARCHY"

# Numbers of GPUs, or of their tiles (0.1), and nothing else.
_NUMBERED = re.compile(r"level_zero:([0-9.]+(?:,[0-9.]+)*)")


def listed(value: str) -> tuple[str, ...]:
    """The ids in a variable's value; -1 and NoDevFiles mean none."""
    ids = tuple(word.strip() for word in value.split(",") if word.strip())
    return () if ids and ids[0] in ("-1", "NoDevFiles") else ids


def for_ray(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to set before Ray is imported; none where the environment can stay as it is."""
    return {**_for_amd(environ), **_for_intel(environ)}


def _for_amd(environ: Mapping[str, str]) -> dict[str, str]:
    """HIP_VISIBLE_DEVICES where only ROCR's is set, as by Slurm: without it `import ray` raises (ray#53737).

    HIP counts within ROCR's list.
    """
    if ROCR not in environ or HIP in environ:
        return {}
    return {HIP: _counted(listed(environ[ROCR]))}


def _for_intel(environ: Mapping[str, str]) -> dict[str, str]:
    """ZE_AFFINITY_MASK where oneAPI's selector names GPUs, and the selector counted within it.

    Ray 2.60 sets the mask for its tasks, and the selector counts within the mask: with the numbers of the whole host
    it would choose none. A selector without numbers, as level_zero:gpu, chooses all and can stay.
    """
    named = _NUMBERED.fullmatch(environ.get(SELECTOR, "").strip())
    if named is None:
        return {}
    chosen = _within(listed(environ[ZE]), listed(named[1])) if ZE in environ else listed(named[1])
    return {ZE: ",".join(chosen), SELECTOR: f"level_zero:{_counted(chosen)}"} if chosen else {}


def _within(masked: tuple[str, ...], numbers: tuple[str, ...]) -> tuple[str, ...]:
    """The masked GPUs that these numbers choose; all of them where the numbers are not of this mask."""
    places = dict(zip(map(str, range(len(masked))), masked, strict=True))
    return tuple(places[number] for number in numbers) if set(numbers) <= set(places) else masked


def _counted(ids: tuple[str, ...]) -> str:
    return ",".join(str(place) for place in range(len(ids)))
