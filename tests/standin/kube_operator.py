"""A stand-in for the KubeRay operator, the scheduler and the kubelet: a pod is a real `ray start` on this host.

Its command is the manifest's own: rayStartParams, what KubeRay makes of the limits, and the token out of the secret.
Added is what several nodes on one host need: ports, a directory, a small object store.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from rayhpc.host.network import free_port
from tests.launch import Mpi
from tests.standin.kube_api import Api, Object, Refused

IMAGES = ("rayproject/ray:2.60.0", "registry.example.org/lab/ray:2.60.0")
_LOOK_SECONDS = 0.3
_SCALES = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, "": 1}
_ENDED = {"SUCCEEDED": "Complete", "FAILED": "Failed", "STOPPED": "Failed"}


def amount(quantity: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * _SCALES[unit]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Operator:
    """Works until close(). node: the labels of the one node that there is; seen: when each fault began (monotonic)."""

    def __init__(self, api: Api, mpi: Mpi, node: dict[str, str] | None = None) -> None:
        self.api, self.mpi, self.node = api, mpi, node or {}
        self.place = Path(tempfile.mkdtemp(prefix="rk-", dir="/tmp"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.tries: dict[str, int] = {}
        self.agents: dict[str, int] = {}
        self.seen: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for name in list(self.processes):
            self._kill(name)
        shutil.rmtree(self.place)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._over.wait(_LOOK_SECONDS):
                with contextlib.suppress(Refused):  # an object was deleted between two looks
                    self._look()
        except BaseException as error:
            self.error = error

    def _look(self) -> None:
        for job in self.api.list("rayjobs"):
            self._job(job)
        clusters = self.api.list("rayclusters")
        for cluster in clusters:
            self._cluster(cluster)
        known = {pod["metadata"]["name"]: pod for pod in self.api.list("pods")}
        for name in [name for name in self.processes if name not in known]:
            self._kill(name)
        for pod in known.values():
            self._pod(pod)
        for cluster in clusters:
            self._status(cluster)

    # ------------------------------------------------------------------------------------------------ the operator

    def _job(self, job: Object) -> None:
        meta, status, spec = job["metadata"], job.get("status", {}), job["spec"]
        name, namespace = status.get("rayClusterName", ""), meta["namespace"]
        if not name:
            made = {"metadata": self._owned(job, f"{meta['name']}-{secrets.token_hex(3)[:5]}", meta["labels"]),
                    "spec": spec["rayClusterSpec"]}  # fmt: skip
            self.api.create("rayclusters", namespace, made)
            first = {"rayClusterName": made["metadata"]["name"], "jobDeploymentStatus": "Initializing"}
            return self.api.patch_status("rayjobs", namespace, meta["name"], first)
        if status["jobDeploymentStatus"] in _ENDED.values():
            if (
                self._there("rayclusters", namespace, name)
                and spec["shutdownAfterJobFinishes"]
                and time.monotonic() - self.seen[name] > spec["ttlSecondsAfterFinished"]
            ):
                self.api.delete("rayclusters", namespace, name)
            return None
        begun = self.begun.setdefault(name, time.monotonic())
        if status["jobDeploymentStatus"] == "Running" and time.monotonic() - begun > spec["activeDeadlineSeconds"]:
            self.api.delete("rayclusters", namespace, name)
            late = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded",
                    "message": "The RayJob has passed the activeDeadlineSeconds."}  # fmt: skip
            return self.api.patch_status("rayjobs", namespace, meta["name"], late)
        if self.api.get("rayclusters", namespace, name).get("status", {}).get("state") != "ready":
            return None
        change: Object = {"jobDeploymentStatus": "Waiting"}
        if spec.get("jobId"):
            try:
                word = str(self.ask(namespace, name, f"/api/jobs/{spec['jobId']}")["status"])
            except OSError:  # a busy dashboard is asked again
                return None
            change = {"jobDeploymentStatus": _ENDED.get(word, "Running"), "jobStatus": word, "jobId": spec["jobId"]}
            self.seen[name] = time.monotonic()
        return self.api.patch_status("rayjobs", namespace, meta["name"], change)

    def token(self, namespace: str, cluster: str) -> str:
        return base64.b64decode(self.api.get("secrets", namespace, cluster)["data"]["auth_token"]).decode()

    def ask(self, namespace: str, cluster: str, path: str, token: str | None = None) -> Any:
        """What the dashboard of a cluster answers to a token, its own if none is named."""
        port = self.api.ports[f"{cluster}-head"][8265]
        bearer = {"Authorization": f"Bearer {self.token(namespace, cluster) if token is None else token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=bearer)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def _owned(self, owner: Object, name: str, labels: dict[str, str]) -> Object:
        reference = {"apiVersion": "ray.io/v1", "kind": owner["kind"], "name": owner["metadata"]["name"],
                     "uid": owner["metadata"]["uid"]}  # fmt: skip
        return {"name": name, "labels": labels, "ownerReferences": [reference]}

    def _cluster(self, cluster: Object) -> None:
        meta, spec = cluster["metadata"], cluster["spec"]
        name, namespace = meta["name"], meta["namespace"]
        labels = {"ray.io/cluster": name, "ray.io/node-type": "head"}
        if not self._there("secrets", namespace, name) and spec["authOptions"]["mode"] == "token":
            data = {"auth_token": base64.b64encode(secrets.token_hex(32).encode()).decode()}
            self.api.create("secrets", namespace, {"metadata": self._owned(cluster, name, {}), "data": data})
            ports = [{"name": n, "port": p, "targetPort": p} for n, p in (("dashboard", 8265), ("client", 10001))]
            service = {
                "metadata": self._owned(cluster, f"{name}-head-svc", {}),
                "spec": {"selector": labels, "ports": ports},
            }
            self.api.create("services", namespace, service)
        self._want(cluster, f"{name}-head", {**labels, "ray.io/group": "headgroup"}, spec["headGroupSpec"]["template"])
        for group in spec["workerGroupSpecs"]:
            labels = {"ray.io/cluster": name, "ray.io/node-type": "worker", "ray.io/group": group["groupName"]}
            found = self.api.list("pods", namespace, f"ray.io/cluster={name},ray.io/group={group['groupName']}")
            for number in range(group["replicas"]):
                self._want(cluster, f"{name}-{group['groupName']}-{number}", labels, group["template"])
            for pod in sorted(found, key=lambda each: str(each["metadata"]["name"]))[group["replicas"] :]:
                self.api.delete("pods", namespace, pod["metadata"]["name"])

    def _there(self, plural: str, namespace: str, name: str) -> bool:
        return (plural, namespace, name) in self.api.objects

    def _want(self, cluster: Object, name: str, labels: dict[str, str], template: Object) -> None:
        namespace = cluster["metadata"]["namespace"]
        if self._there("pods", namespace, name):
            return
        meta = self._owned(cluster, name, {**template["metadata"]["labels"], **labels})
        try:
            self.api.create(
                "pods", namespace, {"metadata": meta, "spec": template["spec"], "status": {"phase": "Pending"}}
            )
        except Refused as no:
            if self.tries.setdefault(name, 0) == 0:
                kind = "Head" if name.endswith("-head") else "Worker"
                self.api.event(cluster, f"FailedToCreate{kind}Pod", f"Failed to create Pod {namespace}/{name}: {no}")
                self.fault("quota")
            self.tries[name] = 1

    def fault(self, name: str) -> None:
        self.seen.setdefault(name, time.monotonic())

    def _status(self, cluster: Object) -> None:
        meta = cluster["metadata"]
        pods = self.api.list("pods", meta["namespace"], f"ray.io/cluster={meta['name']}")
        wanted = sum(group["replicas"] for group in cluster["spec"]["workerGroupSpecs"])
        ready = [pod for pod in pods if ready_of(pod)]
        heads = [pod for pod in ready if pod["metadata"]["labels"]["ray.io/node-type"] == "head"]
        limits = [pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods]
        status = {
            "observedGeneration": 1, "desiredWorkerReplicas": wanted, "readyWorkerReplicas": len(ready) - len(heads),
            "desiredCPU": f"{sum(amount(each['cpu']) for each in limits):g}",
            "desiredGPU": f"{sum(amount(each.get('nvidia.com/gpu', '0')) for each in limits):g}",
            "head": {"serviceName": f"{meta['name']}-head-svc", "podName": f"{meta['name']}-head"},
            **({"state": "ready"} if heads and len(ready) == wanted + 1 else {}),
        }  # fmt: skip
        self.api.patch_status("rayclusters", meta["namespace"], meta["name"], status)

    # --------------------------------------------------------------------------- the scheduler and the node's kubelet

    def _pod(self, pod: Object) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        name, namespace, (container,) = meta["name"], meta["namespace"], spec["containers"]
        process = self.processes.get(name)
        if process is not None:
            return self._running(pod, process)
        selector = spec.get("nodeSelector", {})
        if not selector.items() <= self.node.items():
            self.fault("Unschedulable")
            words = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
            conditions = [condition("PodScheduled", "False", "Unschedulable", words)]
            return self.api.patch_status("pods", namespace, name, {"phase": "Pending", "conditions": conditions})
        if container["image"] not in IMAGES:
            self.fault("ImagePullBackOff")
            words = f'Back-off pulling image "{container["image"]}": not found'
            return self._waits(pod, "ImagePullBackOff", words)
        for source in container.get("envFrom", ()):
            if not self._there("secrets", namespace, source["secretRef"]["name"]):
                self.fault("CreateContainerConfigError")
                words = f'secret "{source["secretRef"]["name"]}" not found'
                return self._waits(pod, "CreateContainerConfigError", words)
        cluster = meta["labels"]["ray.io/cluster"]
        # Of two raylets that start at once on one host, one may not come up. Pods are hosts of their own.
        before = [each for each in self.api.list("pods", namespace, f"ray.io/cluster={cluster}")
                  if each["metadata"]["name"] in self.processes]  # fmt: skip
        if name == f"{cluster}-head" or (before and all(map(ready_of, before))):
            self._start(pod, f"{cluster}-head")
        return None

    def _waits(self, pod: Object, reason: str, words: str, **more: Any) -> None:
        waiting = {"name": pod["spec"]["containers"][0]["name"], "ready": False, **more}
        waiting["state"] = {"waiting": {"reason": reason, "message": words}}
        status = {"phase": "Pending", "containerStatuses": [waiting], "conditions": [condition("PodScheduled", "True")]}
        self.api.patch_status("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], status)

    def _running(self, pod: Object, process: subprocess.Popen[bytes]) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if process.poll() is not None:
            self.fault("CrashLoopBackOff")
            last = {"terminated": {"reason": "Error", "exitCode": process.returncode}}
            self._waits(pod, "CrashLoopBackOff", "back-off 10s restarting failed container", lastState=last)
        elif not ready_of(pod) and self._answers(pod):
            state = {"name": pod["spec"]["containers"][0]["name"], "ready": True, "state": {"running": {}}}
            conditions = [condition("PodScheduled", "True"), condition("Ready", "True")]
            status = {"phase": "Running", "containerStatuses": [state], "conditions": conditions}
            self.api.patch_status("pods", namespace, name, status)

    def _answers(self, pod: Object) -> bool:
        """KubeRay's readiness probe: the node's agent, and of the head its dashboard, which knows the worker."""
        meta = pod["metadata"]
        cluster, namespace = meta["labels"]["ray.io/cluster"], meta["namespace"]
        agent = f"http://127.0.0.1:{self.agents[meta['name']]}/api/local_raylet_healthz"
        try:
            urllib.request.urlopen(agent, timeout=5).close()
            nodes = self.ask(namespace, cluster, "/nodes?view=summary")["data"]["summary"]
        except (OSError, urllib.error.URLError, ValueError, KeyError):
            return False
        alive = [each for each in nodes if each["raylet"].get("state") == "ALIVE"]
        started = [name for name in self.processes if name.startswith(f"{cluster}-")]
        return bool(alive) and (meta["name"].endswith("-head") or len(alive) >= len(started))

    def _start(self, pod: Object, head: str) -> None:
        meta, name = pod["metadata"], pod["metadata"]["name"]
        cluster = self.api.get("rayclusters", meta["namespace"], meta["labels"]["ray.io/cluster"])
        (container,) = pod["spec"]["containers"]
        group = [g for g in cluster["spec"]["workerGroupSpecs"] if g["groupName"] == meta["labels"]["ray.io/group"]]
        params = (group[0] if group else cluster["spec"]["headGroupSpec"])["rayStartParams"]
        argv = [self.mpi.python, "-m", "ray.scripts.scripts", "start", "--block", *self._ports(name, head)]
        argv += [f"--{key}={value}" for key, value in {**of_limits(container), **params}.items()]
        token = self.token(meta["namespace"], cluster["metadata"]["name"])
        told = {each["name"]: each["value"] for each in container.get("env", ())}
        env = {**self.mpi.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, **told}
        log = self.place / f"{name}.log"
        self.api.logs[name] = log
        with log.open("wb") as file:
            self.processes[name] = subprocess.Popen(argv, env=env, stdout=file, stderr=file, cwd=self.place)

    def _ports(self, name: str, head: str) -> list[str]:
        """What several pods on one host need. In a pod the ports are Ray's own."""
        taken: set[int] = set()
        for ports in self.api.ports.values():
            taken |= set(ports.values())

        def port() -> int:
            taken.add(found := free_port("127.0.0.1", 0, frozenset(taken)))
            return found

        flags = [f"--{flag}-port={port()}" for flag in ("metrics-export", "runtime-env-agent")]
        self.agents[name] = port()
        flags += [f"--dashboard-agent-listen-port={self.agents[name]}"]
        flags += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={100 * 2**20}"]
        if name != head:
            return [f"--address=127.0.0.1:{self.api.ports[head][6379]}", *flags]
        ports = self.api.ports[name] = {6379: port(), 8265: port(), 10001: port()}
        flags += [
            f"--port={ports[6379]}",
            f"--dashboard-port={ports[8265]}",
            f"--ray-client-server-port={ports[10001]}",
        ]
        return ["--head", "--node-ip-address=127.0.0.1", f"--temp-dir={self.place / name[-20:]}", *flags]

    def _kill(self, name: str) -> None:
        """As the kubelet ends a pod: all its processes."""
        process = self.processes.pop(name)
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(8)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()
        process.wait()


def of_limits(container: Object) -> dict[str, str]:
    """What KubeRay makes of a pod's limits: CPUs rounded up, GPUs, memory."""
    limits = container["resources"]["limits"]
    gpus = {"num-gpus": limits["nvidia.com/gpu"]} if "nvidia.com/gpu" in limits else {}
    return {"num-cpus": str(math.ceil(amount(limits["cpu"]))), "memory": str(int(amount(limits["memory"]))), **gpus}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


def ready_of(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
