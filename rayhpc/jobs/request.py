"""What a job asks of a running cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class JobRequest:
    """A job to be submitted to a running cluster.

    entrypoint: a shell command line; resources: num_cpus, num_gpus, memory (bytes), custom (a dict);
    mounts: (local, remote); init: shell commands before the entrypoint, of which the first that fails ends the job.
    secrets: names in environment whose values no list and no log may show; all processes of the job have them.
    packages: local directories that are installed for all processes of the job; excludes: patterns of what mounts and
    packages leave out; py_executable: the command that runs Python for the job's tasks; user: whom lists show in the
    place of the account; hints: what the user may want to know of the file that this came from.
    """

    entrypoint: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    resources: dict[str, Any] = field(default_factory=dict)
    working_dir: str = ""
    mounts: tuple[tuple[str, str], ...] = ()
    init: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    py_executable: str = ""
    user: str = ""
    hints: tuple[str, ...] = ()


def command_line(words: Sequence[str]) -> str:
    """A job's command for the shell: one word is a line as it stands, several are a program and its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)
