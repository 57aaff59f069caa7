"""Prometheus as a program: where it is, its files, its command line. It listens on loopback and wants a password."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhpc.errors import configuration
from rayhpc.host.network import free_port
from rayhpc.processes.children import Child, Order
from rayhpc.processes.environment import scrubbed
from rayhpc.processes.keeper_process import Keeping
from rayhpc.records.run_directory import write_whole

# Another binary than the one on PATH.
VARIABLE = "RAYHPC_PROMETHEUS"
LOOPBACK = "127.0.0.1"
USER = "rayhpc"
SCRAPE_SECONDS = 10
_DATA, _TARGETS, _LOG = "data", "targets.json", "prometheus.log"
# It writes to disk what it has in memory: a fraction of a second, more on a file system that is slow.
_LADDER = ((int(signal.SIGTERM), 5.0),)
GONE_SECONDS = 6.0
# Of 2^4: the password is random, and 256 bits long.
_BCRYPT_ROUNDS = 4
_SCRAPING = f"""\
global:
  scrape_interval: {SCRAPE_SECONDS}s
scrape_configs:
  - job_name: ray
    file_sd_configs:
      - files: [{_TARGETS}]
"""
_KEPT = "scrape_configs: []\n"


@dataclass(frozen=True)
class Target:
    """A Ray node that tells its metrics at HOST:PORT, and the labels that its series get."""

    place: str
    labels: Mapping[str, str]


def find(environ: Mapping[str, str]) -> str:
    """The Prometheus to run; raises RayhpcError where there is none."""
    named = environ.get(VARIABLE, "")
    found = shutil.which(named or "prometheus")
    if found is None:
        raise configuration(
            f"there is no Prometheus here: {named or 'prometheus'} is not an executable on PATH",
            next_step=f"install the package `prometheus`, or unpack a release of it (https://prometheus.io/download)"
            f" where all hosts see it, and name the binary in {VARIABLE}",
        )
    return found


def check_packages() -> None:
    """Raises RayhpcError where the package is missing that makes the password's hash."""
    try:
        import bcrypt  # noqa: F401
    except ImportError as error:
        raise configuration(
            "metrics need a package that is not installed", str(error), next_step="pip install 'rayhpc[metrics]'"
        ) from error


def write_files(directory: Path, password: str, scrape: bool) -> None:
    """The configuration in a new directory of mode 0700; raises OSError. scrape: collect from the targets."""
    import bcrypt

    directory.mkdir(mode=0o700)
    (directory / _DATA).mkdir(mode=0o700)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()
    write_whole(directory / "web.yml", f"basic_auth_users:\n  {USER}: {json.dumps(hashed)}\n".encode())
    write_whole(directory / "prometheus.yml", (_SCRAPING if scrape else _KEPT).encode())


def write_targets(directory: Path, targets: Sequence[Target]) -> None:
    """Whom to scrape from now on: Prometheus notices a new file by itself. Raises OSError."""
    groups = [{"targets": [target.place], "labels": dict(target.labels)} for target in targets]
    write_whole(directory / _TARGETS, json.dumps(groups, indent=1).encode())


def command(binary: str, directory: Path, port: int) -> list[str]:
    """The command line of a server whose files are in this directory."""
    return [
        binary,
        f"--config.file={directory}/prometheus.yml",
        f"--web.config.file={directory}/web.yml",
        f"--storage.tsdb.path={data(directory)}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address={LOOPBACK}:{port}",
    ]


def begin(binary: str, directory: Path) -> tuple[Child, str]:
    """A server of the files in this directory, under a keeper, and its URL; raises OSError or RayhpcError.

    It does not answer yet. On end(), or when this process goes, it writes to disk what it has in memory.
    """
    port = free_port(LOOPBACK)
    descriptor = os.open(log(directory), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        child = Child(Keeping("metrics", descriptor, descriptor))
    finally:
        os.close(descriptor)
    child.run(Order(command(binary, directory, port), scrubbed(os.environ), _LADDER, _LADDER))
    return child, f"http://{LOOPBACK}:{port}"


def data(directory: Path) -> Path:
    """Where the series lie."""
    return directory / _DATA


def log(directory: Path) -> Path:
    """What the server writes."""
    return directory / _LOG
