"""The environments of our children: MPI's variables taken out, Ray's settings put in. Pure."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rayhpc import paths
from rayhpc.inside_ray import names

if TYPE_CHECKING:  # a rank needs this file before it has imported all that
    from rayhpc.model import Assignment, ClusterEntry, ClusterSpec, Gpus, NodeSpec

# What tells an MPI library that it is a rank of our job: a second MPI program in the driver would join it (ray#7893).
_MPI_PREFIXES = (
    "PMI_",
    "PMI2_",
    "PMIX_",
    "HYDI_",
    "HYD_",
    "OMPI_",
    "PRTE_",
    "MPI_LOCAL",
    "MV2_COMM_",
    "PALS_",
    "ALPS_APP_",
)
# The user's own permissions and settings, which a second mpirun in the driver needs.
_MPI_KEPT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
# Variables by which another cluster, or an earlier one of the user, would reach into ours.
_RAY_DROPPED = frozenset(
    [
        "RAY_ADDRESS",
        "RAY_TMPDIR",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_START_HOOK",
        "RAY_REDIS_ADDRESS",
        "RAY_FAKE_CLUSTER",
        "RAY_NAMESPACE",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "RAY_GCS_SERVER_PORT",
        "RAY_NODE_IP_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
    ]
)
# What makes a process of the driver believe that it is one of several that srun, or a rendezvous of ours, has started.
_RANK_DROPPED = frozenset(
    [
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_GTIDS",
        "RAYHPC_RANK",
        "RAYHPC_SIZE",
        "RAYHPC_HEAD",
        "RAYHPC_PORT",
        "RAYHPC_NODES",
        "RAYHPC_TOKEN_FILE",
        "RAYHPC_RENDEZVOUS",
        "RAYHPC_RENDEZVOUS_FILE",
        "RAYHPC_ADDRESS",
        "RAY_HEAD_IP",
        "RAY_HEAD_PORT",
    ]
)
# Up to here a node is declared dead after three checks that fail; larger clusters keep Ray's patience.
TIGHT_HEALTH_NODES = 64

MARKER = "RAYHPC_NODE"
# The rank that asks its own `ray start` for the node table.
_ASKS = 0
_OWN_PROGRAMS = str(Path(sys.executable).parent)


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without MPI's variables and without traces of other Ray clusters."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _RAY_DROPPED | _RANK_DROPPED and (name in _MPI_KEPT or not name.startswith(_MPI_PREFIXES))
    }


def ignored(environ: Mapping[str, str]) -> list[str]:
    """The variables of another Ray cluster that this run takes no notice of; those of a run around it are expected."""
    return [] if MARKER in environ else sorted(_RAY_DROPPED.intersection(environ))


def authentication(private: str, tls: bool = False) -> dict[str, str]:
    """What lets a process of ours into the cluster: the paths of token, certificate and key, never their content."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": paths.token_file(private)}
    return {**token, **_certificate(private)} if tls else token


def _certificate(private: str) -> dict[str, str]:
    """Ray asks its clients for a certificate as well: both sides show the same one, which is its own authority."""
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": paths.certificate_file(private),
        "RAY_TLS_SERVER_KEY": paths.key_file(private),
        "RAY_TLS_CA_CERT": paths.certificate_file(private),
    }


def marker(run_id: str, rank: int) -> str:
    """NAME=value that every process of a rank carries."""
    return f"{MARKER}={run_id}/{rank}"


def of_import(environ: Mapping[str, str]) -> dict[str, str]:
    """For a `ray start` that imports Ray before the ranks have agreed: the part of of_daemons() that is known then.

    Ray reads RAY_AUTH_MODE when it is imported, and with TLS the paths of the certificate, which are not known.
    """
    inherited = scrubbed(environ)
    return {**_FAST, **inherited, **python_first(inherited), "RAY_AUTH_MODE": "token"}


def of_daemons(
    environ: Mapping[str, str], assignment: Assignment, spec: NodeSpec, interface: str = ""
) -> dict[str, str]:
    """For `ray start` and all that it starts; a setting of the user's own wins over ours.

    interface: the one of this host that has the node's address; empty where that is not known.
    """
    inherited = scrubbed(environ)
    return {
        **_settings(assignment.nodes),
        **_of_collectives(interface),
        **(_RARELY if assignment.metrics and not assignment.dashboard_port else {}),
        **inherited,
        **_without_proxies(inherited, {assignment.head_address, spec.address}),
        **_visible(spec.gpus, inherited),
        **_hook(inherited, assignment, spec),
        **python_first(inherited),
        **authentication(spec.temp_dir, assignment.certificate is not None),
        MARKER: f"{assignment.run_id}/{spec.rank}",
    }


def python_first(inherited: Mapping[str, str]) -> dict[str, str]:
    """`python` in a job is the one that runs Ray, also where its virtual environment was not activated."""
    path = inherited.get("PATH", os.defpath)
    return {} if _OWN_PROGRAMS in path.split(os.pathsep) else {"PATH": os.pathsep.join([_OWN_PROGRAMS, path])}


def _hook(inherited: Mapping[str, str], assignment: Assignment, spec: NodeSpec) -> dict[str, str]:
    """What `ray start` and ray_command.py read of us; without the patches no hook but where Ray needs one."""
    found = {names.NODE_TABLE: paths.node_table(spec.temp_dir)} if spec.rank == _ASKS else {}
    if assignment.dashboard_port:
        found[names.DASHBOARD] = "1"
    if assignment.metrics:
        found[names.METRICS] = "1"
    if names.temp_dir_needs_hook(assignment.ray):
        found[names.TEMP_DIR] = paths.ray_temp_dir(spec.temp_dir)
    hooked = names.TEMP_DIR in found or not names.switched_off(inherited)
    return {**found, names.HOOK: names.HOOK_NAME} if hooked else found


def _of_collectives(interface: str) -> dict[str, str]:
    """Where torch.distributed connects: Gloo takes a name, NCCL a prefix of names unless "=" stands before it."""
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"} if interface else {}


def _visible(gpus: Gpus, inherited: Mapping[str, str]) -> dict[str, str]:
    """The node's GPUs alone; none is said as well, since Ray leaves the variable of tasks without GPUs as it is."""
    named = [entry for entry in gpus.all_variables if entry.ids or entry.variable in inherited]
    return {entry.variable: ",".join(entry.ids) for entry in named}


def of_driver(
    environ: Mapping[str, str],
    assignment: Assignment,
    spec: ClusterSpec,
    stop_timeout: float | None = None,
    alive: int = 0,
    interface: str = "",
) -> dict[str, str]:
    """For the driver: RAY_ADDRESS, so that a plain ray.init() attaches; RAYHPC_DEADLINE where the end is known.

    stop_timeout: the seconds that it has to end after INT or TERM, as RAYHPC_STOP_TIMEOUT; alive: the nodes that are
    there, as RAYHPC_ALIVE_NODES, all where it is 0. RAYHPC_DEADLINE_FILE names a file with the end as it is now: the
    scheduler may move it. driver_api has functions for them. interface: as for of_daemons().
    """
    inherited = scrubbed(environ)
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        **_of_collectives(interface),
        **inherited,
        **_without_proxies(inherited, {spec.head.address}),
        **authentication(spec.head.temp_dir, assignment.certificate is not None),
        **({"RAYHPC_DEADLINE": f"{spec.deadline:.0f}"} if spec.deadline else {}),
        **({"RAYHPC_STOP_TIMEOUT": f"{stop_timeout:g}"} if stop_timeout is not None else {}),
        "RAYHPC_DEADLINE_FILE": paths.deadline_file(spec.run_dir),
        "RAY_ADDRESS": spec.address,
        "RAYHPC_RUN_ID": spec.run_id,
        "RAYHPC_RUN_DIR": spec.run_dir,
        "RAYHPC_ALIVE_NODES": str(alive or len(spec.nodes)),
        MARKER: f"{assignment.run_id}/{spec.head.rank}",
    }


def of_guest(environ: Mapping[str, str], entry: ClusterEntry, private: str) -> dict[str, str]:
    """For a command of the login side: a cluster's address and the paths of its secrets; private: where they lie."""
    inherited = scrubbed(environ)
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        **inherited,
        **_without_proxies(inherited, {entry.address.rpartition(":")[0].strip("[]")}),
        **authentication(private, entry.tls),
        "RAY_ADDRESS": entry.address,
        "RAYHPC_ADDRESS": entry.address,
        # `ray job` wants the dashboard, and would take RAY_ADDRESS for it.
        **({"RAY_API_SERVER_ADDRESS": entry.dashboard} if entry.dashboard else {}),
    }


# The raylet sleeps a fixed 1 s in a race for its own socket; 500 tries of 20 ms are the same 10 s in all and save that
# second. Draining at the end is for clusters that go on without the node; ours ends as a whole. `ray status` reads what
# an autoscaler's process writes, of which we start none; of version 2 it reads what the GCS itself knows. Ray's agents
# write their titles over their environment, the run's mark in it included, unless SPT_NOENV is set.
_FAST = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_enable_autoscaler_v2": "1",
    "SPT_NOENV": "1",
}


# Ray's agent looks at its host every 5 s, which is most of what metrics cost; Prometheus asks every 10 s.
_RARELY = {"REPORTER_UPDATE_INTERVAL_MS": "10000"}


def _settings(nodes: int) -> dict[str, str]:
    """Ray's start, tuned."""
    if nodes <= TIGHT_HEALTH_NODES:
        # A raylet that has gone is dead after 3 s, one that hangs, or whose host does, after 1 s + 3 x (1 s + 2.5 s).
        return {
            **_FAST,
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2500",
            "RAY_health_check_failure_threshold": "3",
        }
    # Public practice at 256 nodes.
    return {
        **_FAST,
        "RAY_gcs_rpc_server_connect_timeout_s": "30",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
        "RAY_worker_register_timeout_seconds": "120",
    }


def _without_proxies(environ: Mapping[str, str], addresses: set[str]) -> dict[str, str]:
    """no_proxy with the cluster's addresses, where a proxy is set at all."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") for name in environ):
        return {}
    known = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    value = ",".join([*filter(None, [known]), "localhost", "127.0.0.1", *sorted(addresses)])
    return {"no_proxy": value, "NO_PROXY": value}
