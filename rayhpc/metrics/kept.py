"""The metrics that a run has kept, served once more by a Prometheus on a copy of them. The run may still go on."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rayhpc import paths
from rayhpc.errors import configuration
from rayhpc.metrics import prometheus
from rayhpc.metrics.questions import Prometheus
from rayhpc.processes.children import Child, until_gone
from rayhpc.records.run_directory import last_lines
from rayhpc.records.runs import Run

# It reads its log of what was not yet packed: a second for each hour of 100 nodes.
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.05


@contextlib.contextmanager
def served(run: Run) -> Iterator[Prometheus]:
    """A server of a run's metrics, while the context lasts; raises RayhpcError without metrics or Prometheus."""
    source = prometheus.data(Path(run.directory, paths.METRICS))
    if not source.is_dir():
        raise configuration(f"the run {run.id} has kept no metrics", next_step="start a run with --metrics")
    prometheus.check_packages()
    binary = prometheus.find(os.environ)
    with tempfile.TemporaryDirectory(prefix="rayhpc-metrics-") as temporary:
        directory, password = Path(temporary, "copy"), secrets.token_hex()
        prometheus.write_files(directory, password, scrape=False)
        _copy(source, prometheus.data(directory))
        with _started(binary, directory, password) as server:
            yield server


def _copy(source: Path, target: Path) -> None:
    """The series as they are now. A file that goes meanwhile was packed into another, which is read the next time."""
    with contextlib.suppress(shutil.Error):
        shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "lock").unlink(missing_ok=True)


@contextlib.contextmanager
def _started(binary: str, directory: Path, password: str) -> Iterator[Prometheus]:
    """A server under a keeper, which ends it and removes its directory if this process is killed."""
    child, url = prometheus.begin(binary, directory)
    child.answer_for(str(directory.parent))
    try:
        server = Prometheus(url, password)
        _wait(child, server, prometheus.log(directory))
        yield server
    finally:
        child.end()
        until_gone([child], prometheus.GONE_SECONDS)


def _wait(child: Child, server: Prometheus, log: Path) -> None:
    """Return once the server answers; raises RayhpcError where it ends before, or has not in time."""
    end = time.monotonic() + _READY_SECONDS
    while not server.ready():
        if child.poll() or time.monotonic() > end:
            what = "does not answer" if child.code is None else f"has ended with {child.code}"
            step = f"try it by hand: {prometheus.VARIABLE}=… names another binary"
            raise configuration(f"Prometheus {what}", *last_lines(log, 5), next_step=step)
        time.sleep(_POLL_SECONDS)
