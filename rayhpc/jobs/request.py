"""What a job asks of a running cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class JobRequest:
    """A job to be submitted to a running cluster.

    entrypoint: a shell command line; resources: num_cpus, num_gpus, memory (bytes), custom (a dict);
    mounts: (local, remote); init: shell commands before the entrypoint, of which the first that fails ends the job.
    secrets: names in environment whose values no list and no log may show; all processes of the job have them.
    """

    entrypoint: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    resources: dict[str, Any] = field(default_factory=dict)
    working_dir: str = ""
    mounts: tuple[tuple[str, str], ...] = ()
    init: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
