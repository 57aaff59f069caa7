"""Ray's state API without a dashboard: nodes, actors and placement groups, from a thread of the head's `ray start`.

Ray's clients (ray.util.state, Ray Train and Serve by themselves) look for the dashboard's address in the GCS, for 40 s.
Here they find ours. What the GCS knows, they are told; for all else they get an error that names --dashboard.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

HELP = "this cluster has no dashboard, which would answer that; start it with rayhpc's option --dashboard"
# The dashboard speaks HTTP, also where Ray uses TLS. No token goes over the network in the clear by default: clients of
# a cluster with TLS are told an address that refuses them at once.
_REFUSING = "127.0.0.1:9"
_REQUEST_SECONDS = 10.0
# Below net.ipv4.ip_local_port_range.
_PORTS = range(20000, 32768)
_TRIES = 50
# Fields with ids, which protobuf holds as bytes.
_IDS = ["actor_id", "owner_id", "job_id", "creator_job_id", "node_id", "placement_group_id"]

Row = dict[str, Any]


def start(host: str, gcs: str) -> None:
    """Answer at a free port of this host, and write the address to the GCS where Ray's clients look for it."""
    import ray._raylet
    from ray._private import ray_constants

    address = _REFUSING
    if os.environ.get("RAY_USE_TLS") != "1":
        listener = _listen(host)
        port = listener.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=_serve, args=(listener, gcs), name="state-api", daemon=True).start()
    ray._raylet.GcsClient(address=gcs).internal_kv_put(
        ray_constants.DASHBOARD_ADDRESS.encode(), address.encode(), True, ray_constants.KV_NAMESPACE_DASHBOARD
    )


def _listen(host: str) -> socket.socket:
    """At a port that Linux gives to nobody who asks for any, as Ray's servers do; raises OSError without one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(_PORTS, _TRIES):
        with contextlib.suppress(OSError):
            return socket.create_server((host, port), family=family)
    return socket.create_server((host, 0), family=family)


def _serve(listener: socket.socket, gcs: str) -> None:
    """Answer each caller in a thread of its own."""
    state = State(gcs)
    while True:
        caller, _ = listener.accept()
        caller.settimeout(_REQUEST_SECONDS)
        threading.Thread(target=_handle, args=(caller, state), daemon=True).start()


def _handle(caller: socket.socket, state: State) -> None:
    """One request; whatever goes wrong is the caller's answer."""
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            code, answer = state.answer(self.headers.get("Authorization", ""), self.path)
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names of the standard library

        def log_message(self, *_: object) -> None:
            """The log is that of `ray start`."""

    with caller:
        try:
            Handler(caller, caller.getpeername(), None)  # type: ignore[arg-type] # the server is not used
        except OSError:
            return  # the caller has gone


class State:
    """What the GCS knows, as rows of Ray's state API. It connects, and imports what that needs, when it is asked."""

    def __init__(self, gcs: str) -> None:
        self._gcs = gcs
        self._lock = threading.Lock()
        self._nodes: Any = None
        self._accessor: Any = None
        self._tables: dict[str, tuple[Callable[[], list[Row]], str]] = {
            "nodes": (self.nodes, "NodeState"),
            "actors": (self.actors, "ActorState"),
            "placement_groups": (self.placement_groups, "PlacementGroupState"),
        }

    def _connect(self) -> None:
        if self._accessor is None:
            import ray._raylet

            self._nodes = ray._raylet.GcsClient(address=self._gcs)
            options = ray._raylet.GcsClientOptions.create(self._gcs, None, True, True)
            accessor = ray._raylet.GlobalStateAccessor(options)
            if not accessor.connect():
                raise ConnectionError(f"no answer of the GCS at {self._gcs}")
            self._accessor = accessor

    def answer(self, authorization: str, url: str) -> tuple[int, Row]:
        """HTTP status and JSON of a request with this header."""
        import ray
        from ray._private.authentication.authentication_utils import is_token_auth_enabled, validate_request_token

        if is_token_auth_enabled() and not validate_request_token(authorization):
            return (403 if authorization else 401), _failure("the token of this cluster is needed")
        parts = urllib.parse.urlsplit(url)
        if parts.path == "/api/version":
            return 200, {"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__}
        if parts.path.removeprefix("/api/v0/") not in self._tables:
            return 500, _failure(HELP)
        try:
            with self._lock:
                return 200, self._list(parts.path.removeprefix("/api/v0/"), urllib.parse.parse_qs(parts.query))
        except Exception as error:  # Ray's errors share no base class
            return 500, _failure(f"{type(error).__name__}: {error}")

    def _list(self, table: str, query: dict[str, list[str]]) -> Row:
        from ray.util.state import common

        self._connect()
        read, schema = self._tables[table]
        keys, predicates, values = (query.get(f"filter_{part}", []) for part in ("keys", "predicates", "values"))
        filters = list(zip(keys, predicates, values, strict=True))
        rows = read()
        chosen = [row for row in rows if all(matches(row, *entry) for entry in filters)]
        limit, detail = int(query.get("limit", ["100"])[0]), query.get("detail", ["False"])[0].lower() == "true"
        fields = [common.filter_fields(row, getattr(common, schema), detail) for row in chosen[:limit]]
        counts = {"total": len(rows), "num_after_truncation": len(rows), "num_filtered": len(chosen)}
        listed = {"result": fields, "partial_failure_warning": "", "warnings": None, **counts}
        return {"result": True, "msg": "", "data": {"result": listed}}

    def nodes(self) -> list[Row]:
        """All nodes that this cluster ever had."""
        rows = [_row(info) for info in self._nodes.get_all_node_info(timeout=_REQUEST_SECONDS).values()]
        times = ("start_time_ms", "end_time_ms")
        return [
            {**row, "node_ip": row["node_manager_address"], **{name: int(row.get(name, 0)) for name in times}}
            for row in rows
        ]

    def actors(self) -> list[Row]:
        """All actors, the dead ones that the GCS remembers included."""
        from ray.core.generated import gcs_pb2

        return [_row(gcs_pb2.ActorTableData.FromString(data)) for data in self._accessor.get_actor_table(None, None)]

    def placement_groups(self) -> list[Row]:
        """All placement groups."""
        from ray.core.generated import gcs_pb2

        table = self._accessor.get_placement_group_table()
        return [_row(gcs_pb2.PlacementGroupTableData.FromString(data)) for data in table]


def matches(row: Row, key: str, predicate: str, value: str) -> bool:
    """Ray's filter: equal or not, letters' case aside; a row without the field matches nothing."""
    if key.lower() not in row or predicate not in ("=", "!="):
        return False
    return (str(row[key.lower()]).lower() == value.lower()) == (predicate == "=")


def _row(message: Any) -> Row:
    from ray.util.state.common import protobuf_message_to_dict

    return dict(protobuf_message_to_dict(message, _IDS))


def _failure(text: str) -> Row:
    return {"result": False, "msg": text, "data": {"result": None}}
