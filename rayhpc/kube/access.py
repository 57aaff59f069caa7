"""From Kubernetes to the registry: a ready cluster becomes an entry, with its token and a port of this host."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.host import network
from rayhpc.jobs import ray_api, targets
from rayhpc.kube.kubectl import Kubectl
from rayhpc.kube.manifest import OWNER
from rayhpc.model import KUBERAY, ClusterEntry
from rayhpc.records import registry

PLACE = "kube.json"
LOG = "agent.log"
DASHBOARD, GCS, RAY_CLIENT = 8265, 6379, 10001
_REACH_SECONDS = 30.0
Object = dict[str, Any]


def entry_id(cluster: Object) -> str:
    """The id of the entry: the cluster's name, and the beginning of the UID that no other cluster has."""
    return f"{cluster['metadata']['name']}-{cluster['metadata']['uid'][:6]}"


def register(kubectl: Kubectl, cluster: Object) -> ClusterEntry:
    """The entry of a ready cluster, made if it is not there, with a process that keeps it; raises RayhpcError."""
    secret = token(kubectl, cluster)
    run_dir = paths.state_dir(os.environ) / "kube" / entry_id(cluster)
    with registry.changing():
        known = [entry for entry in registry.every() if entry.id == entry_id(cluster)]
        if known and _alive(known[0]):
            return known[0]
        if known:  # its process ended with the host's last start
            registry.forget(known[0])
        port = network.free_port("127.0.0.1")
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        agent = _start_agent(entry_id(cluster), run_dir)
        entry = sized(_entry(cluster, f"http://127.0.0.1:{port}", run_dir, agent.pid), cluster)
        registry.add(entry, secret)
        # The agent waits for this file, which comes last.
        place = {"context": kubectl.context, "namespace": cluster["metadata"]["namespace"], "port": port}
        (registry.directory(entry.id) / PLACE).write_text(json.dumps(place))
    _reach(entry, agent, run_dir / LOG)
    return entry


def token(kubectl: Kubectl, cluster: Object) -> str:
    """The cluster's token out of the secret that the operator makes; raises RayhpcError."""
    name = cluster["spec"].get("authOptions", {}).get("secretName") or cluster["metadata"]["name"]
    try:
        found = kubectl.json("get", "secret", name)["data"]["auth_token"]
        return base64.b64decode(found).decode().strip()
    except (KeyError, TypeError, ValueError) as error:
        raise configuration(
            f"the secret {name} holds no token", f"key auth_token: {type(error).__name__}",
            next_step="KubeRay 1.5 is the first that makes tokens; see its version: kubectl get pods -A | grep kuberay",
        ) from error  # fmt: skip


def _entry(cluster: Object, dashboard: str, run_dir: Path, pid: int) -> ClusterEntry:
    meta, status = cluster["metadata"], cluster.get("status", {})
    service = status.get("head", {}).get("serviceName") or f"{meta['name']}-head-svc"
    return ClusterEntry(
        id=entry_id(cluster), user=meta.get("labels", {}).get(OWNER, ""), host=os.uname().nodename,
        address=f"{service}.{meta['namespace']}.svc:{GCS}", dashboard=dashboard,
        nodes=1, cpus=0.0, gpus=0.0, run_dir=str(run_dir), scheduler=KUBERAY, batch_job_id=meta["name"], command=(),
        started_at=time.time(), deadline=0.0, tls=False, pid=pid,
    )  # fmt: skip


def sized(entry: ClusterEntry, cluster: Object) -> ClusterEntry:
    """The entry with the cluster's size as it shall be now: workers come and go."""
    status = cluster.get("status", {})
    return dataclasses.replace(
        entry, nodes=1 + int(status.get("desiredWorkerReplicas") or 0), cpus=amount(status.get("desiredCPU", "0")),
        gpus=amount(status.get("desiredGPU", "0")),
    )  # fmt: skip


def amount(quantity: str) -> float:
    """CPUs or GPUs of '3', '2500m'."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity or 0)


def _start_agent(entry: str, run_dir: Path) -> subprocess.Popen[bytes]:
    """The process that stays when we end: see rayhpc.kube.agent."""
    argv = [sys.executable, "-m", "rayhpc.kube.agent", entry]
    with (run_dir / LOG).open("ab") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _alive(entry: ClusterEntry) -> bool:
    """True if the entry's process beats, and was not killed on this host since."""
    if entry.host == os.uname().nodename:
        try:
            os.kill(entry.pid, 0)
        except OSError:  # there is none, or its number is somebody else's now
            return False
    return registry.heartbeat_age(entry) < _REACH_SECONDS


def _reach(entry: ClusterEntry, agent: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the cluster answers with its token; raises RayhpcError, the entry removed."""
    end = time.monotonic() + _REACH_SECONDS
    while True:
        try:
            return ray_api.probe(targets.with_job_api(entry))
        except RayhpcError as error:
            if agent.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
                continue
            registry.forget(entry)
            said = tuple(log.read_text(errors="replace").splitlines()[-5:])
            step = f"kubectl port-forward service/{entry.address.partition('.')[0]} {DASHBOARD}"
            evidence = (error.fault.what, *error.fault.evidence, *said)
            what = f"the cluster {entry.batch_job_id} runs, and cannot be reached from here"
            raise RayhpcError(Fault(what, ExitCode.NOT_READY, entry.address, evidence, step)) from error


def place(entry: ClusterEntry) -> Kubectl:
    """Where on Kubernetes a registered cluster is; raises RayhpcError."""
    try:
        found = json.loads((registry.directory(entry.id) / PLACE).read_text())
        return Kubectl(found["context"], found["namespace"])
    except (OSError, ValueError, KeyError) as error:
        step = f"rayhpc kube address {entry.batch_job_id}"
        raise configuration(f"the entry of {entry.id} does not say where it is", str(error), next_step=step) from error


def monitoring(kubectl: Kubectl, name: str, port: int) -> tuple[Kubectl, str, int]:
    """(where, service, port) of a Prometheus or Grafana on Kubernetes; raises RayhpcError where none is seen."""
    for service in kubectl.items("services", "--all-namespaces"):
        ports = [each["port"] for each in service["spec"].get("ports", ())]
        meta = service["metadata"]
        if name in meta["name"] and (port in ports or 80 in ports):
            return Kubectl(kubectl.context, meta["namespace"]), meta["name"], port if port in ports else 80
    raise configuration(
        f"no service of {name} is seen on Kubernetes", f"a name with {name} and port {port} or 80, in all namespaces",
        next_step="kubectl get services -A; ask who runs the cluster",
    )  # fmt: skip
