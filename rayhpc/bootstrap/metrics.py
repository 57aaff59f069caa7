"""On rank 0, once the cluster is up: with --metrics, a Prometheus that scrapes the nodes of the node table.

A Prometheus that cannot be started, or ends, ends no run: a warning says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.errors import RayhpcError
from rayhpc.messages import Milestone
from rayhpc.metrics import figures, prometheus, questions
from rayhpc.metrics.prometheus import Target
from rayhpc.model import HEAD_RANK, AliveNode, ClusterSpec, Outcome
from rayhpc.processes.children import Child, until_gone
from rayhpc.records.run_directory import last_lines

# For each question at the end of the run, when the scheduler's patience counts.
_ANSWER_SECONDS = 2.0
# Between the choice of a free port and its use, another program may take it.
_STARTS = 3
_TAKEN = "address already in use"


def check(environ: Mapping[str, str]) -> None:
    """Raises RayhpcError where this host lacks what --metrics needs."""
    prometheus.find(environ)
    prometheus.check_packages()


class Metrics:
    """Collects the metrics of a run from start() to close(). token: the run's, which is the password as well."""

    def __init__(self, context: RunContext, token: str) -> None:
        self.url = ""
        self._context, self._token = context, token
        self._child: Child | None = None
        self._directory, self._binary = Path(), ""
        self._starts = 0
        self._seen: Sequence[AliveNode] = ()
        self._began = 0.0
        self._spec: ClusterSpec | None = None
        self._scraped: Sequence[Target] = ()

    def start(self, spec: ClusterSpec, alive: Sequence[AliveNode]) -> Outcome | None:
        """Begin to collect, without waiting for the first answer; nothing without --metrics."""
        if not self._context.options.metrics:
            return None
        self._spec, self._began = spec, time.time()
        self._directory = Path(spec.run_dir, paths.METRICS)
        try:
            self._binary = prometheus.find(os.environ)
            prometheus.write_files(self._directory, self._token, scrape=True)
            self.follow(alive)
            self._start()
        except (OSError, RayhpcError) as error:
            self._warn(f"no metrics: {self._directory}: {error}")
        return None

    def follow(self, alive: Sequence[AliveNode]) -> None:
        """Scrape these nodes from now on: one that was started again has another port."""
        if self._spec is None or alive is self._seen:
            return
        self._seen = alive
        targets = [_target(self._spec, node) for node in alive if node.rank is not None and node.metrics_port > 0]
        if targets == self._scraped:
            return
        self._scraped = targets
        try:
            prometheus.write_targets(self._directory, targets)
        except OSError as error:
            self._warn(f"metrics are still those of the nodes before: {error.filename}: {error.strerror}")

    def close(self) -> dict[str, Any]:
        """The figures of the run, and the end of Prometheus; empty where nothing was collected."""
        if self._child is None or self._spec is None:
            return {}
        found = self._figures(self._spec)
        self._context.watch.forget(self._child)
        self._child.end()
        if until_gone([self._child], prometheus.GONE_SECONDS):
            self._warn(f"keeper {self._child.keeper_pid} of Prometheus has not ended")
        if words := figures.in_words(found):
            self._context.console.line(words)
        return found

    def _figures(self, spec: ClusterSpec) -> dict[str, Any]:
        cpus = sum(node.cpus for node in spec.nodes)
        try:
            server = questions.Prometheus(self.url, self._token, _ANSWER_SECONDS)
            return figures.of_run(server, cpus, self._began, time.time())
        except (OSError, ValueError, RayhpcError) as error:  # it is ended all the same, and so is the run
            self._warn(f"no figures of the metrics: {error}; {self._log_says()}")
            return {}

    def _start(self) -> None:
        self._starts += 1
        child, self.url = prometheus.begin(self._binary, self._directory)
        self._child = child
        self._context.watch.add(child, self._ended)

    def _ended(self, child: Child) -> Milestone:
        """What is told of a Prometheus that ended by itself: it is started again where its port was taken."""
        self._child = None
        how = child.failed[1] if child.failed else f"it ended with {child.code}"
        warning = f"no metrics from here on: Prometheus: {how}; {self._log_says()}"
        if self._starts < _STARTS and _TAKEN in self._log_says():
            try:
                self._start()
                warning = f"the port of Prometheus was taken: it is at {self.url} now"
            except (OSError, RayhpcError) as error:
                warning = f"{warning}; {error}"
        return Milestone(HEAD_RANK, self._host, "metrics", time.time(), warning)

    def _log_says(self) -> str:
        log = prometheus.log(self._directory)
        return f"{log} says: {' '.join(last_lines(log, 1))}"

    @property
    def _host(self) -> str:
        return self._spec.head.host if self._spec else ""

    def _warn(self, text: str) -> None:
        self._context.console.line(f"WARNING: {text}")


def _target(spec: ClusterSpec, node: AliveNode) -> Target:
    """Where a node tells its metrics, labelled with whose they are."""
    host = f"[{node.address}]" if ":" in node.address else node.address
    rank = node.rank if node.rank is not None else HEAD_RANK
    return Target(f"{host}:{node.metrics_port}", _labels(spec, rank))


def _labels(spec: ClusterSpec, rank: int) -> Mapping[str, str]:
    return {"run": spec.run_id, "host": spec.host(rank), "rank": str(rank), "job": spec.batch_job_id or spec.run_id}
