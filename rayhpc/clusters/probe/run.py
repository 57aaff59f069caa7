"""Probe clusters by a job that looks at every node: what each finds, or why there is no answer."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from rayhpc.clusters.probe import node_probe
from rayhpc.clusters.probe.node_probe import MARK
from rayhpc.errors import Fault, RayhpcError, configuration
from rayhpc.jobs import ray_api, ray_client
from rayhpc.jobs.find import Found
from rayhpc.jobs.ray_api import COMMAND, USER, Job, Server
from rayhpc.jobs.ray_client import RayJobSubmission
from rayhpc.jobs.wait import current_state

_PROGRAM = Path(node_probe.__file__)
_PAUSE = 0.3
_SIDE_BY_SIDE = 64
# The probe's own deadline ends it before ours does: so that it can say which node was silent.
_HEAD_START = 0.7
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Answer:
    """What one probe job found: a row for each node that is alive, as node_probe.py prints them; or why none."""

    server: Server
    seconds: float
    nodes: tuple[dict[str, Any], ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True)
class Terms:
    """How long a probe may take, and the account that its job is listed under; given_up: nobody waits any more."""

    seconds: float
    user: str
    given_up: Event = field(default_factory=Event)


def probe_clusters(servers: Sequence[Server], number: int, terms: Terms) -> list[list[Answer]]:
    """The answers of so many probe jobs on each cluster, all running at once, in the order of the clusters.

    Ctrl-C ends the probes that run.
    """
    wanted = [server for server in servers for _ in range(number)]
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        try:
            answers = list(pool.map(lambda server: _probe(server, terms), wanted))
        except KeyboardInterrupt:
            terms.given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [answers[place : place + number] for place in range(0, len(answers), number)]


def _probe(server: Server, terms: Terms) -> Answer:
    began = time.monotonic()
    try:
        nodes = _run(server, terms)
    except RayhpcError as error:
        return Answer(server, time.monotonic() - began, fault=error.fault)
    return Answer(server, time.monotonic() - began, tuple(nodes))


def _run(server: Server, terms: Terms) -> list[dict[str, Any]]:
    job_id = f"check-{uuid.uuid4().hex[:8]}"
    words = f"python {_PROGRAM.name} {terms.seconds * _HEAD_START:g}"
    ray_api.until_ready(server)
    with tempfile.TemporaryDirectory(prefix="rayhpc-probe-") as folder:
        shutil.copy(_PROGRAM, folder)
        # Ray 2.54 hides all GPUs from a task that asks for none, unless told.
        environment = {"working_dir": folder, "env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
        ray_client.submit(server, RayJobSubmission(job_id, words, environment, {}, {USER: terms.user, COMMAND: words}))
    job = _ended(Found(server, ray_api.one(server, job_id)), terms)
    return _report(server, job, ray_api.logs(server, job_id))


def _ended(entry: Found, terms: Terms) -> Job:
    """The job once it has ended; raises RayhpcError, after asking for its end, when the time is over."""
    end = time.monotonic() + terms.seconds
    while not (job := current_state(entry)).ended:
        if terms.given_up.wait(_PAUSE) or time.monotonic() > end:
            ray_api.stop(entry.server, job.id)
            raise configuration(
                f"cluster {entry.server.name}: no answer of the probe within {terms.seconds:g} s",
                f"job {job.id} was {job.status}, and was told to stop",
                next_step=f"rayhpc job logs {job.id}; a busy cluster may need a longer --timeout",
            )
    return job


def _report(server: Server, job: Job, output: str) -> list[dict[str, Any]]:
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            return list(json.loads(line.removeprefix(MARK)))
    lines = [line[:200] for line in output.splitlines() if line.strip()]
    raise configuration(
        f"cluster {server.name}: the probe found nothing: {job.words}",
        *lines[-_SHOWN_LINES:],
        next_step=f"rayhpc job logs {job.id}",
    )
