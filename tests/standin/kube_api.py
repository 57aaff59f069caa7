"""A stand-in for Kubernetes' API server, which cannot be had as a package: as much of it as kubectl and KubeRay use.

Discovery, namespaces, create, get, list with labels, watch, the three kinds of patch, server-side apply with KubeRay's
own CRDs (defaults filled in, unknown fields refused), deletes with owners, permissions, a quota of pods, logs and port
forwards. No conflicts, no finalizers, no admission besides the quota.
"""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import socket
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.standin.spdy import Session
from tests.unit.kube.schemas import problems

Object = dict[str, Any]
# plural: (group and version, kind)
KINDS = {
    "pods": ("v1", "Pod"), "services": ("v1", "Service"), "secrets": ("v1", "Secret"), "events": ("v1", "Event"),
    "namespaces": ("v1", "Namespace"), "nodes": ("v1", "Node"),
    "rayclusters": ("ray.io/v1", "RayCluster"), "rayjobs": ("ray.io/v1", "RayJob"),
    "selfsubjectaccessreviews": ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
}  # fmt: skip
_VERBS = ["create", "delete", "get", "list", "patch", "watch"]


class Refused(Exception):
    """An answer that is none of success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Api:
    """The server's state; another thread may use it at any time. pod_limit: a quota, 0 for none."""

    crds: bool = True
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    pod_limit: int = 0
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)
    ports: dict[str, dict[int, int]] = field(default_factory=dict)
    version: int = 1
    changes: list[tuple[str, str, Object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        for namespace in ("lab", "default"):
            self.create("namespaces", "", {"metadata": {"name": namespace}})

    def kinds(self) -> dict[str, tuple[str, str]]:
        return {plural: kind for plural, kind in KINDS.items() if self.crds or kind[0] != "ray.io/v1"}

    def get(self, plural: str, namespace: str, name: str) -> Object:
        with self.changed:
            found = self.objects.get((plural, namespace, name))
            if found is None:
                group = KINDS[plural][0].rpartition("/")[0].replace("/v1", "")
                raise Refused(404, "NotFound", f'{plural}{"." if group else ""}{group} "{name}" not found')
            return copy.deepcopy(found)

    def list(self, plural: str, namespace: str = "", selector: str = "") -> list[Object]:
        with self.changed:
            found = [o for (p, ns, _), o in self.objects.items() if p == plural and namespace in ("", ns)]
            return copy.deepcopy([each for each in found if matches(each, selector)])

    def create(self, plural: str, namespace: str, body: Object) -> Object:
        with self.changed:
            name = body["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                raise Refused(409, "AlreadyExists", f'{plural} "{name}" already exists')
            self._admit(plural, namespace, name)
            body["metadata"] |= {
                "namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1,
                "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }  # fmt: skip
            return self.put(plural, namespace, body, "ADDED")

    def _admit(self, plural: str, namespace: str, name: str) -> None:
        used = len(self.list("pods", namespace))
        if plural == "pods" and self.pod_limit and used >= self.pod_limit:
            raise Refused(
                403, "Forbidden",
                f'pods "{name}" is forbidden: exceeded quota: team, requested: pods=1, used: pods={used}, '
                f"limited: pods={self.pod_limit}",
            )  # fmt: skip

    def put(self, plural: str, namespace: str, body: Object, what: str = "MODIFIED") -> Object:
        """Store an object as it is now; raises Refused for what its CRD does not know."""
        body |= dict(zip(("apiVersion", "kind"), KINDS[plural], strict=True))
        if plural.startswith("ray") and (wrong := problems(body)):
            raise Refused(400, "BadRequest", f"strict decoding error: {'; '.join(wrong[:3])}")
        with self.changed:
            self.version += 1
            body["metadata"]["resourceVersion"] = str(self.version)
            self.objects[plural, namespace, body["metadata"]["name"]] = copy.deepcopy(body)
            self._note(what, plural, body)
            return body

    def _note(self, what: str, plural: str, body: Object) -> None:
        self.changes.append((what, plural, copy.deepcopy(body)))
        self.changed.notify_all()

    def delete(self, plural: str, namespace: str, name: str) -> Object:
        """Delete an object and all that it owns."""
        with self.changed:
            gone = self.get(plural, namespace, name)
            del self.objects[plural, namespace, name]
            self._note("DELETED", plural, gone)
            for (kind, ns, other), each in list(self.objects.items()):
                owners = [owner["uid"] for owner in each["metadata"].get("ownerReferences", ())]
                if gone["metadata"]["uid"] in owners and (kind, ns, other) in self.objects:
                    self.delete(kind, ns, other)
            return gone

    def apply(self, plural: str, namespace: str, name: str, body: Object) -> Object:
        with self.changed:
            if (plural, namespace, name) not in self.objects:
                return self.create(plural, namespace, body)
            return self.put(plural, namespace, merge(self.get(plural, namespace, name), body))

    def patch_status(self, plural: str, namespace: str, name: str, status: Object) -> None:
        """The operator's and the kubelet's writes; one of an object that is gone is lost."""
        with self.changed:
            found = self.objects.get((plural, namespace, name))
            if found is not None and {**found.get("status", {}), **status} != found.get("status"):
                self.put(plural, namespace, {**copy.deepcopy(found), "status": {**found.get("status", {}), **status}})

    def event(self, involved: Object, reason: str, message: str) -> None:
        meta = involved["metadata"]
        body = {
            "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:12]}"}, "type": "Warning", "reason": reason,
            "message": message, "lastTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "involvedObject": {"kind": involved["kind"], "name": meta["name"], "namespace": meta["namespace"]},
        }  # fmt: skip
        self.create("events", meta["namespace"], body)


def matches(found: Object, selector: str) -> bool:
    """key, key=value, joined by commas."""
    labels = found["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        key, equals, value = term.replace("==", "=").partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def merge(old: Any, new: Any) -> Any:
    """A merge patch (RFC 7396); lists are replaced, as in a field that one manager has."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    kept = {key: value for key, value in old.items() if new.get(key, "") is not None}
    return {**kept, **{key: merge(old.get(key), value) for key, value in new.items() if value is not None}}


def json_patch(document: Object, steps: list[Object]) -> Object:
    """RFC 6902: add and replace."""
    for step in steps:
        *path, last = step["path"].strip("/").split("/")
        place: Any = document
        for word in path:
            place = place[int(word) if isinstance(place, list) else word]
        place[int(last) if isinstance(place, list) else last] = step["value"]
    return document


def fields(message: bytes) -> dict[int, list[bytes]]:
    """The fields of a protobuf message that have a length, by their numbers; others are none of ours."""
    found: dict[int, list[bytes]] = {}
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = number()
        size = number()
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(message[place : place + size])
            place += size
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    """Requests, as kubectl sends them."""

    protocol_version = "HTTP/1.1"
    api: Api

    def _handle(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        try:
            self._route([word for word in url.path.split("/") if word], query, raw)
        except Refused as no:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(no)}
            self._answer({**status, "reason": no.reason, "code": no.code}, no.code)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # kubectl has what it wanted

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _answer(self, body: Any, code: int = 200, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, path: list[str], query: dict[str, str], raw: bytes) -> None:
        match path:
            case ["version"]:
                self._answer({"major": "1", "minor": "37", "gitVersion": "v1.37.0"})
            case ["openapi", "v3", *group]:
                self._answer(openapi(self.api, "/".join(group)))
            case ["api"]:
                self._answer({"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(self.api)})
            case ["api", "v1"] | ["apis", _, _]:
                self._answer(resources(self.api, "/".join(path[1:])))
            case ["api", "v1", *rest] | ["apis", _, _, *rest]:
                self._object("/".join(path[1 : len(path) - len(rest)]), rest, query, raw)
            case _:
                raise Refused(404, "NotFound", "the server could not find the requested resource")

    def _object(self, group: str, rest: list[str], query: dict[str, str], raw: bytes) -> None:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name, *part = [*rest, ""][: max(2, len(rest))]
        if self.api.kinds().get(plural, ("",))[0] != group:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        verb = {"GET": "get" if name else "list", "POST": "create"}.get(self.command, self.command.lower())
        if self.headers.get("Upgrade"):
            verb = "create"
        self._permit(verb, "/".join([plural, *filter(None, part)]), namespace)
        kind = self.headers.get("Content-Type", "")
        match (verb, part):
            case (_, ["log"]):
                self._log(namespace, name, query)
            case (_, ["portforward"]):
                self._forward(namespace, name)
            case ("get", _):
                self._answer(self.api.get(plural, namespace, name))
            case ("list", _) if query.get("watch"):
                self._watch(plural, namespace, query)
            case ("list", _):
                self._answer(self._list(plural, namespace, query.get("labelSelector", "")))
            case ("create", _) if plural == "selfsubjectaccessreviews":
                self._review(raw)
            case ("create", _):
                self._answer(self.api.create(plural, namespace, yaml.safe_load(raw)), 201)
            case ("patch", _):
                self._answer(self._patched(plural, namespace, name, kind, raw))
            case ("delete", _):
                self._answer(self.api.delete(plural, namespace, name))

    def _permit(self, verb: str, resource: str, namespace: str) -> None:
        if (verb, resource) in self.api.forbidden:
            raise Refused(
                403, "Forbidden", f'{resource} is forbidden: User "ada" cannot {verb} resource "{resource}" in API '
                f'group "{KINDS[resource.partition("/")[0]][0].rpartition("/")[0]}" in the namespace "{namespace}"',
            )  # fmt: skip

    def _patched(self, plural: str, namespace: str, name: str, kind: str, raw: bytes) -> Object:
        body = yaml.safe_load(raw)
        if kind.startswith("application/apply-patch"):
            return self.api.apply(plural, namespace, name, body)
        found = self.api.get(plural, namespace, name)
        changed = json_patch(found, body) if kind.startswith("application/json-patch") else merge(found, body)
        return self.api.put(plural, namespace, changed)

    def _list(self, plural: str, namespace: str, selector: str) -> Object:
        version, kind = KINDS[plural]
        with self.api.changed:
            meta = {"resourceVersion": str(self.api.version)}
            items = self.api.list(plural, namespace, selector)
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": meta, "items": items}

    def _watch(self, plural: str, namespace: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for what, body in self._changes(plural, namespace, query):
            line = json.dumps({"type": what, "object": body}).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

    def _changes(self, plural: str, namespace: str, query: dict[str, str]) -> Iterator[tuple[str, Object]]:
        seen, since = 0, int(query.get("resourceVersion") or 0)
        end = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        while time.monotonic() < end:
            with self.api.changed:
                self.api.changed.wait_for(lambda: len(self.api.changes) > seen, 1.0)  # noqa: B023
                fresh, seen = self.api.changes[seen:], len(self.api.changes)
            for what, kind, body in fresh:
                meta = body["metadata"]
                if kind == plural and namespace in ("", meta["namespace"]) and int(meta["resourceVersion"]) > since:
                    yield what, body

    def _review(self, raw: bytes) -> None:
        """`kubectl auth can-i` asks in protobuf: verb, resource and subresource are fields 2, 5 and 6."""
        (review,) = fields(raw.removeprefix(b"k8s\0"))[2]
        (spec,) = fields(review)[2]
        (attributes,) = fields(spec)[1]
        asked = {number: value[0].decode() for number, value in fields(attributes).items()}
        allowed = (asked[2], "/".join(filter(None, [asked[5], asked.get(6, "")]))) not in self.api.forbidden
        body = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}}
        self._answer({**body, "spec": {}, "status": {"allowed": allowed}}, 201)

    def _log(self, namespace: str, name: str, query: dict[str, str]) -> None:
        self.api.get("pods", namespace, name)
        lines = self.api.logs[name].read_bytes().splitlines(keepends=True)
        tail = int(query.get("tailLines") or -1)
        self._answer(b"".join(lines[-tail:] if tail >= 0 else lines), kind="text/plain")

    def _forward(self, namespace: str, name: str) -> None:
        if not self.headers.get("Upgrade", "").startswith("SPDY"):  # kubectl tries a WebSocket first
            raise Refused(400, "BadRequest", "unable to upgrade: only SPDY is here")
        self.api.get("pods", namespace, name)
        ports = self.api.ports.get(name, {})
        self.send_response(101)
        for header in (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")):
            self.send_header(*header)
        self.send_header("X-Stream-Protocol-Version", self.headers.get("X-Stream-Protocol-Version", ""))
        self.end_headers()
        connect: Callable[[int], socket.socket] = lambda port: socket.create_connection(  # noqa: E731
            ("127.0.0.1", ports.get(port, 1)), 10
        )
        Session(self.rfile, self.connection, connect).serve()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' terminal."""


def groups(api: Api) -> list[Object]:
    found = sorted({version for version, _ in api.kinds().values() if "/" in version})
    return [
        {"name": v.partition("/")[0], "versions": [w := {"groupVersion": v, "version": "v1"}], "preferredVersion": w}
        for v in found
    ]


def resources(api: Api, version: str) -> Object:
    """What a group has; a group that is not installed is not found."""
    found = [(plural, kind) for plural, (v, kind) in api.kinds().items() if v == version]
    if not found:
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    rows = [
        {"name": plural, "singularName": kind.lower(), "namespaced": plural not in ("namespaces", "nodes"),
         "kind": kind, "verbs": _VERBS}
        for plural, kind in found
    ]  # fmt: skip
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows}


def openapi(api: Api, version: str) -> Object:
    """From this kubectl learns that the server itself checks the fields (fieldValidation)."""
    if not version:
        names = [("api/" if "/" not in v else "apis/") + v for v in {v for v, _ in api.kinds().values()}]
        return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in names}}
    paths = {}
    for plural, (found, kind) in api.kinds().items():
        if version.partition("/")[2] == found:
            group = found.rpartition("/")[0]
            paths[f"/{version}/namespaces/{{namespace}}/{plural}/{{name}}"] = {
                "patch": {
                    "x-kubernetes-group-version-kind": {"group": group, "version": "v1", "kind": kind},
                    "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                    "responses": {},
                }
            }
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"}, "paths": paths}


class Server(http.server.ThreadingHTTPServer):
    """Many watches and forwards at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *words: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*words)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def end(self) -> None:
        """As a server that dies: watches, logs and forwards break."""
        self.shutdown()
        self.server_close()
        for each in list(self.connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def serve(api: Api, port: int = 0) -> Server:
    """A running server; its end() ends it."""
    handler = type("BoundHandler", (Handler,), {"api": api})
    server = Server(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def kubeconfig(port: int, namespace: str = "lab") -> Object:
    """What KUBECONFIG names."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "standin",
        "clusters": [{"name": "standin", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "ada", "user": {}}],
        "contexts": [{"name": "standin", "context": {"cluster": "standin", "user": "ada", "namespace": namespace}}],
    }  # fmt: skip
