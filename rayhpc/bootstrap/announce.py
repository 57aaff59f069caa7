"""An accepted cluster, as others learn of it: its entry in the registry, and the commands that its user may want."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayhpc.model import AliveNode, ClusterEntry, ClusterSpec
from rayhpc.options import Options
from rayhpc.processes import environment
from rayhpc.records import registry
from rayhpc.user_input.secret_names import shown_words

_SHOWN = 100


def cluster_entry(spec: ClusterSpec, alive: Sequence[AliveNode], command: Sequence[str], tls: bool) -> ClusterEntry:
    """What the registry says of a cluster that has just come up."""
    return ClusterEntry(
        id=spec.run_id,
        user=registry.account(),
        host=spec.head.host,
        address=spec.address,
        dashboard=f"http://{_dashboard(spec)}" if spec.dashboard_port else "",
        nodes=len(alive),
        cpus=sum(node.cpus for node in alive),
        gpus=sum(node.gpus for node in alive),
        run_dir=spec.run_dir,
        scheduler=spec.scheduler,
        batch_job_id=spec.batch_job_id,
        command=shown_words(command, os.environ),
        started_at=time.time(),
        deadline=spec.deadline,
        tls=tls,
        pid=os.getpid(),
    )


def next_commands(spec: ClusterSpec, options: Options, authentication: Mapping[str, str]) -> list[str]:
    """Lines for the user: how to reach the dashboard, and how to use and end a cluster that is held."""
    lines = []
    if spec.dashboard_port:
        forward = f"ssh -N -L 8265:{_dashboard(spec)} {spec.head.host}"
        lines += [f"dashboard: {forward}   then http://localhost:8265"]
    if options.hold:
        settings = {"RAY_ADDRESS": spec.address, **authentication}
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
        lines += [f"on {spec.head.host}: env {exports} python your_driver.py", "end it: Ctrl-C, or SIGTERM"]
        if options.register:
            lines += [f"from a login node: rayhpc cluster attach {spec.run_id}"]
    return lines


def ignored_variables(environ: Mapping[str, str]) -> list[str]:
    """A warning where the user's shell points at another Ray cluster, else none. Only the address is shown."""
    address = f"RAY_ADDRESS={environ.get('RAY_ADDRESS', '')[:_SHOWN]!r}"
    named = [address if name == "RAY_ADDRESS" else name for name in environment.ignored(environ)]
    instead = "the driver gets this run's cluster"
    return [f"set in your environment, not used: {', '.join(named)}; {instead}"] if named else []


def _dashboard(spec: ClusterSpec) -> str:
    return replace(spec, port=spec.dashboard_port).address
