"""Jobs are submitted and their logs followed through Ray's own client, which packs files and reads as they come.

It knows no deadline, so it works in a thread; it needs the packages of ray[default], and imports Ray.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import queue
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayhpc.errors import RayhpcError, configuration
from rayhpc.jobs.ray_api import Server, authorization, last_lines, silence

# Packages of up to 100 MiB are packed and sent.
_SUBMIT_SECONDS = 300.0
# By these, Ray's client would talk to another cluster than the one that it is told; by RAY_AUTH_MODE, it would send the
# shell's token to a cluster for which there is none.
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True)
class RayJobSubmission:
    """A job that is ready to go. script: for the shell; runtime_env: Ray's, with local directories to be sent along.

    resources: as in JobRequest; metadata: what lists of jobs show, as ray_api reads it.
    """

    id: str
    script: str
    runtime_env: dict[str, Any]
    resources: dict[str, Any]
    metadata: dict[str, str]


def submit(server: Server, submission: RayJobSubmission) -> None:
    """Hand a job in; raises RayhpcError."""
    arguments = {
        "entrypoint": submission.script,
        "submission_id": submission.id,
        "metadata": submission.metadata,
        "runtime_env": submission.runtime_env,
        **_resources(submission.resources),
    }
    _within(_SUBMIT_SECONDS, server, lambda: _client(server).submit_job(**arguments))


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    names = {"num_cpus": "num_cpus", "num_gpus": "num_gpus", "memory": "memory", "custom": "resources"}
    return {f"entrypoint_{name}": resources[key] for key, name in names.items() if resources.get(key)}


def _client(server: Server) -> Any:
    """Ray's client; raises what Ray does, and ImportError before it is asked for what it cannot do without aiohttp."""
    if importlib.util.find_spec("aiohttp") is None:
        raise ImportError("there is no module aiohttp")
    for name in _OVERRIDING if server.token_file else (*_OVERRIDING, "RAY_AUTH_MODE"):
        os.environ.pop(name, None)
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    direct = ",".join(filter(None, [known, urllib.parse.urlsplit(server.url).hostname]))
    os.environ.update({"no_proxy": direct, "NO_PROXY": direct})
    from ray.job_submission import JobSubmissionClient

    logging.disable(logging.INFO)
    return JobSubmissionClient(server.url, headers=authorization(server))


def _within(seconds: float, server: Server, call: Callable[[], Any]) -> Any:
    """What a call of Ray's client returns, which knows no deadline of its own; raises RayhpcError."""
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:  # RuntimeError, ConnectionError, Ray's AuthenticationError, and those of requests
            answers.put((None, error))

    threading.Thread(target=work, daemon=True, name="job-client").start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise silence(server, TimeoutError(f"no answer within {seconds:g} s")) from None
    if error is not None:
        raise _client_error(server, error)
    return value


def _client_error(server: Server, error: Exception) -> RayhpcError:
    """Our error for one of Ray's client."""
    if isinstance(error, RayhpcError):
        return error
    if isinstance(error, ImportError):
        return configuration(
            "this environment has no client of Ray's job API",
            f"{type(error).__name__}: {error}",
            next_step="pip install 'rayhpc[dashboard]'",
        )
    return configuration(
        f"cluster {server.name} does not take the job",
        *last_lines(f"{type(error).__name__}: {error}"),
        next_step="correct the request; rayhpc job list shows whether it got there all the same",
    )


class Tail:
    """What a job writes, from its beginning, read by a thread of its own: Ray's client has no deadline."""

    def __init__(self, server: Server, job_id: str) -> None:
        self._chunks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._server, self._job_id = server, job_id
        self._error: Exception | None = None
        self.over = False
        threading.Thread(target=self._run, daemon=True, name="job-log").start()

    def read(self, seconds: float) -> str:
        """The next piece; empty if none came in time or will come (`over`). Raises RayhpcError without a client."""
        try:
            piece = self._chunks.get(timeout=seconds)
        except queue.Empty:
            return ""
        self.over = piece is None
        if self.over and isinstance(self._error, ImportError):
            raise _client_error(self._server, self._error)
        return piece or ""

    def _run(self) -> None:
        try:
            asyncio.run(self._copy())
        except Exception as error:  # aiohttp's own and Ray's: what has become of the job is asked for then
            self._error = error
        self._chunks.put(None)

    async def _copy(self) -> None:
        async for piece in _client(self._server).tail_job_logs(self._job_id):
            self._chunks.put(piece)
