"""kubectl as a function: each call with a deadline, and each of its refusals as an error of ours."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration

_SECONDS = 30.0
_SHOWN_LINES = 6
# What all that follows a launch does, beside making the object: (verb, resource).
_NEEDED = (
    ("list", "pods"), ("list", "events"), ("get", "secrets"), ("get", "pods/log"), ("create", "pods/portforward"),
)  # fmt: skip


class NotFound(RayhpcError):
    """Kubernetes has no such object."""


class Unreachable(RayhpcError):
    """Kubernetes does not answer now; it may later."""


@dataclass(frozen=True)
class Kubectl:
    """A cluster of Kubernetes and a namespace in it; empty: the ones that kubectl's own configuration names."""

    context: str = ""
    namespace: str = ""

    def argv(self, *words: str) -> list[str]:
        """The command line; raises RayhpcError where there is no kubectl."""
        program = shutil.which("kubectl")
        if program is None:
            raise configuration(
                "there is no kubectl", f"PATH: {os.environ.get('PATH', '')}",
                next_step="install it (https://kubernetes.io/docs/tasks/tools), or load its module",
            )  # fmt: skip
        place = [f"--{name}={value}" for name, value in (("context", self.context), ("namespace", self.namespace))]
        return [program, *(word for word in place if not word.endswith("=")), *words]

    def run(self, *words: str, text: str = "") -> str:
        """What kubectl prints; text: its standard input. Raises RayhpcError, NotFound, Unreachable."""
        done = self._done(words, text)
        if done.returncode != 0:
            raise self._refusal(words, done.stderr)
        return done.stdout

    def json(self, *words: str) -> Any:
        """The same as data."""
        return json.loads(self.run(*words, "-o", "json"))

    def items(self, *words: str) -> list[dict[str, Any]]:
        """The objects in a list."""
        found: list[dict[str, Any]] = self.json("get", *words)["items"]
        return found

    def named(self, kind: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of the objects with these names that are there."""
        text = self.run("get", kind, *names, "--ignore-not-found", "-o", "json") if names else ""
        found = json.loads(text) if text.strip() else {"items": []}
        return {each["metadata"]["name"]: each for each in found.get("items", [found])}

    def may(self, verb: str, resource: str) -> bool:
        """What `kubectl auth can-i` says."""
        kind, _, part = resource.partition("/")
        words = ("auth", "can-i", verb, kind, *([f"--subresource={part}"] if part else []))
        done = self._done(words, "")
        if done.stdout.strip() not in ("yes", "no"):
            raise self._refusal(words, done.stderr)
        return done.stdout.strip() == "yes"

    def where(self) -> str:
        """The namespace, as kubectl's configuration has it."""
        if self.namespace:
            return self.namespace
        words = ("config", "view", "--minify", "-o", "jsonpath={..namespace}")
        return self.run(*words).strip() or "default"

    def _done(self, words: tuple[str, ...], text: str) -> subprocess.CompletedProcess[str]:
        argv = self.argv(*words)
        try:
            return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unreachable(
                Fault(f"kubectl has not answered within {_SECONDS:g} s", ExitCode.CONFIGURATION, "", (" ".join(argv),),
                      "check the network, the VPN and the cluster: kubectl version")
            ) from error  # fmt: skip

    def _refusal(self, words: tuple[str, ...], said: str) -> RayhpcError:
        whole = [line for line in said.splitlines() if line.strip()]
        lines = ([line for line in whole if not _OWN_LOG.match(line)] or whole)[-_SHOWN_LINES:]
        command = " ".join(["kubectl", *itertools.takewhile(lambda word: not word.startswith("-"), words)])
        for pattern, what, step in _MEANINGS:
            if re.search(pattern, said):
                kind = _KINDS.get(pattern, RayhpcError)
                return kind(Fault(what, ExitCode.CONFIGURATION, command, tuple(lines), step))
        step = "correct what Kubernetes names; rayhpc kube manifest shows what it would get"
        return RayhpcError(Fault("kubectl refuses", ExitCode.CONFIGURATION, command, tuple(lines), step))


# Of kubectl's programmers, before each of its own messages: E1128 14:00:53.406283    9572 memcache.go:265] …
_OWN_LOG = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d")
_NOT_FOUND = r"\(NotFound\)|NotFound\):"
_NO_ANSWER = "connection refused|was refused|no such host|i/o timeout|Unable to connect|TLS handshake timeout|: EOF"
_KINDS: dict[str, type[RayhpcError]] = {_NOT_FOUND: NotFound, _NO_ANSWER: Unreachable}
_NO_CRD = "the KubeRay operator's types are not installed in this cluster"
_INSTALL = "ask who runs the cluster for KubeRay (helm install kuberay-operator kuberay/kuberay-operator)"
_MEANINGS = (
    (r'no matches for kind "Ray|resource type "ray(clusters|jobs)|could not find the requested resource', _NO_CRD,
     _INSTALL),
    (r"exceeded quota", "the namespace's quota has no room", "kubectl describe quota; ask for less, or delete others"),
    (r"\(Forbidden\)|is forbidden|orbidden:", "you are not allowed to do this here",
     "kubectl auth can-i --list; ask who runs the cluster, or name another --namespace"),
    (r"Unauthorized|must be logged in", "Kubernetes does not know you", "log in again, as your cluster's guide says"),
    (r"localhost:8080 was refused", "kubectl knows no cluster",
     "KUBECONFIG names the file that says where it is, by default ~/.kube/config: ask who runs the cluster"),
    (_NO_ANSWER, "Kubernetes cannot be reached",
     "check the network, the VPN and kubectl config current-context; another cluster: --context"),
    (r"context .* does not exist|no context exists|context was not found", "there is no such context",
     "kubectl config get-contexts"),
    (_NOT_FOUND, "Kubernetes has no such object", "rayhpc kube list"),
)  # fmt: skip


def check_access(kubectl: Kubectl, resource: str) -> None:
    """Raises RayhpcError, before anything is made, where KubeRay's types or our permissions are missing.

    resource: what will be made, rayclusters or rayjobs.
    """
    served = kubectl.run("api-resources", "--api-group=ray.io", "-o", "name", "--cached=false").split()
    if f"{resource}.ray.io" not in served:
        evidence = f"kubectl api-resources --api-group=ray.io: {' '.join(served) or 'nothing'}"
        raise RayhpcError(Fault(_NO_CRD, ExitCode.CONFIGURATION, kubectl.where(), (evidence,), _INSTALL))
    needed = [(verb, f"{resource}.ray.io") for verb in ("create", "patch")] + [*_NEEDED]
    with ThreadPoolExecutor(len(needed)) as pool:
        allowed = list(pool.map(lambda need: kubectl.may(*need), needed))
    if missing := [" ".join(need) for need, yes in zip(needed, allowed, strict=True) if not yes]:
        raise RayhpcError(
            Fault(
                "you may not do here what a Ray cluster needs", ExitCode.CONFIGURATION, f"namespace {kubectl.where()}",
                tuple(f"kubectl auth can-i {need}: no" for need in missing),
                "ask who runs the cluster for a role that allows it, or name another --namespace",
            )
        )  # fmt: skip
