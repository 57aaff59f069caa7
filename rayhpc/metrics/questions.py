"""PromQL to a Prometheus, for one moment or a range of time, by its HTTP API (prometheus.io, HTTP API)."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.metrics.prometheus import USER

_SECONDS = 10.0
_BAD_QUERY = (400, 422)


@dataclass(frozen=True)
class Series:
    """A series of the answer: its labels, and (Unix seconds, value) of each sample."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.samples[-1][1]


@dataclass(frozen=True)
class Prometheus:
    """A server that is asked, and has so many seconds for each answer.

    Every question raises OSError where it does not answer, RayhpcError for bad PromQL.
    """

    url: str
    password: str = field(repr=False)
    seconds: float = _SECONDS

    def ready(self) -> bool:
        """Whether it answers questions by now."""
        try:
            self._get("/-/ready", {})
        except OSError:
            return False
        return True

    def at(self, query: str, moment: float | None = None) -> list[Series]:
        """The value of each series at a moment, now without one."""
        asked = {"query": query, **({} if moment is None else {"time": f"{moment:.3f}"})}
        return _series(json.loads(self._get("/api/v1/query", asked))["data"])

    def between(self, query: str, begin: float, end: float, step: float) -> list[Series]:
        """The values of each series from begin to end, a value every `step` seconds."""
        asked = {"query": query, "start": f"{begin:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return _series(json.loads(self._get("/api/v1/query_range", asked))["data"])

    def _get(self, path: str, fields: Mapping[str, str]) -> bytes:
        pair = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        body = urllib.parse.urlencode(fields).encode() if fields else None
        request = urllib.request.Request(f"{self.url}{path}", body, {"Authorization": f"Basic {pair}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.seconds) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code not in _BAD_QUERY:
                raise
            raise _bad_query(fields.get("query", ""), error.read()) from error


def _series(answer: dict[str, Any]) -> list[Series]:
    """The series of an answer, whatever its type."""
    if answer["resultType"] in ("scalar", "string"):
        return [Series({}, (_sample(answer["result"]),))]
    return [
        Series(entry["metric"], tuple(_sample(pair) for pair in entry.get("values") or [entry["value"]]))
        for entry in answer["result"]
    ]


def _sample(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _bad_query(query: str, answer: bytes) -> RayhpcError:
    words = json.loads(answer).get("error", "") if answer.startswith(b"{") else answer.decode(errors="replace")
    step = "write it in PromQL, as 'max by (host) (ray_node_mem_used)'"
    return RayhpcError(
        Fault(f"Prometheus does not understand {query!r}", ExitCode.USAGE, evidence=(str(words),), next_step=step)
    )
