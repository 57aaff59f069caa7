"""What the user may choose: each option is defined once, here, and the command lines are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Ray refuses object stores below 75 MiB.
OBJECT_STORE_MINIMUM = 80 * 2**20
# Every process of Ray maps the whole object store, and more: with 1300 MiB beside it (`prlimit --as`, Ray 2.60 on two
# CPUs) a driver could not load pyarrow, with 1420 not always, with 1500 it ran; one with RLlib maps 3 GiB.
LEAST_ADDRESS_SPACE = 1500 * 2**20
AMPLE_ADDRESS_SPACE = 4 * 2**30
# Options that `rayhpc node worker` has as well: what may differ from host to host, and how long it waits.
WORKER_OPTIONS = ("interface", "temp_dir", "timeout")


def option(default: Any, text: str, **details: Any) -> Any:
    """A field of Options: its default, its help text, and what the command line needs besides its type.

    details: metavar, choices (the help shows them in its place), minimum, maximum, multiple, off (help text of the
    negative flag), bare (the value of the flag alone: any other is written --flag=value), variables (all that are read,
    the first that is set counts; without them that of the name).
    """
    return field(default=default, metadata={"help": text, **details})


@dataclass(frozen=True)
class Options:
    """What the user may choose. A field is an option: `num_cpus` is `--num-cpus` and RAYHPC_NUM_CPUS."""

    rendezvous: str = option(
        "mpi", "How the ranks meet (docs/rendezvous.md).", choices=("mpi", "slurm", "file", "tcp")
    )
    one_per_host: bool = option(False, "One Ray node per host; the other ranks of a host idle.")
    num_cpus: int | None = option(None, "CPUs of each Ray node.", minimum=0, metavar="N")
    num_gpus: int | None = option(None, "GPUs of each Ray node.", minimum=0, metavar="N")
    memory: str = option("", "Memory of each Ray node for tasks and actors, as 64G.", metavar="SIZE")
    object_store_memory: str = option("", "Object store of each Ray node, as 8G.", metavar="SIZE")
    resources: str = option("", "Custom resources of each Ray node, as '{\"fast\": 2}'.", metavar="JSON")
    labels: str = option("", "Labels of each Ray node.", metavar="KEY=VALUE,...")
    interface: str = option("", "Network of the cluster: a name, a glob or a CIDR.", metavar="NAME|GLOB|CIDR")
    port: int = option(0, "Port of the head (GCS). 0: a free one.", minimum=0, maximum=65535, metavar="PORT")
    temp_dir: str = option("", "Node-local directory for Ray's session. Short: AF_UNIX.", metavar="DIR")
    run_dir: str = option("rayhpc-runs", "Where the record of each run is kept.", metavar="DIR")
    timeout: float = option(
        0.0, "Seconds until every node must be alive. 0: grows with the nodes.", minimum=0, metavar="S"
    )
    min_nodes: int = option(
        0, "Continue with a warning once at least N nodes are up. 0: all.", minimum=0, metavar="N"
    )
    spares: int = option(
        0, "Hosts that wait, to take the place of a bad or a lost one (docs/spares.md).", minimum=0, metavar="K"
    )
    on_node_loss: str = option(
        "continue", "What a lost worker node means.", choices=("continue", "abort")
    )
    restart_nodes: int = option(
        0, "How often each worker's Ray node is started again after a loss.", minimum=0, metavar="K"
    )
    dashboard: bool = option(False, "Start Ray's dashboard and job API.", off="No dashboard (the default).")
    metrics: bool = option(
        False, "Collect the nodes' metrics with Prometheus (docs/metrics.md).", off="No metrics (the default)."
    )
    register: bool = option(
        True,
        "Enter the run in your registry of clusters, for `rayhpc cluster`.",
        off="Do not: `rayhpc cluster` does not see the run.",
    )
    tls: bool = option(False, "Encrypt Ray's traffic, with a certificate made for this run alone (needs openssl).")
    ray_arg: tuple[str, ...] = option(
        (), "Passed to every `ray start` as it is. Repeatable.", multiple=True, metavar="ARG"
    )
    check: str = option(
        "no",
        "Check all hosts first, and without a driver do no more. A failure ends the launch with 78, or bad hosts are "
        "excluded, as far as --min-nodes or --spares allow. --check alone is --check=stop.",
        choices=("no", "stop", "exclude"),
        bare="stop",
    )
    check_skip: str = option("", "Checks that are left out, as `rayhpc doctor explain` names them.", metavar="ID,...")
    login_node: bool = option(False, "Start even on a host to which the scheduler gives no jobs.")
    hold: bool = option(
        False, "No driver: keep the cluster until a signal. Not Slurm's job hold, which keeps a job from starting."
    )
    join: str = option(
        "", "Bring nodes to the running cluster RUN, until their job's end (docs/growth.md).", metavar="RUN"
    )
    walltime: str = option("", "End of the job, counted from now: 3600, 01:00:00, 1-00:00:00.", metavar="TIME")
    deadline: float = option(0.0, "End of the job in Unix seconds.", minimum=0, metavar="UNIX")
    grace: float = option(
        60.0, "Seconds before the end of the job at which the driver is signalled.", minimum=0, metavar="S"
    )
    grace_signal: str = option(
        "USR1", "The signal it gets then.", choices=("USR1", "USR2", "INT", "TERM", "HUP")
    )
    stop_timeout: float = option(
        8.0, "Seconds the driver has to end after INT or TERM before it is killed.", minimum=0, metavar="S"
    )
    logs: str = option(
        "always",
        "When Ray's logs are kept in the run directory.",
        choices=("always", "failure", "never"),
    )


@dataclass(frozen=True)
class Terminals:
    """The options of `rayhpc node` besides Options. A field is an option, as there."""

    head: str = option(
        "",
        "Where the head waits, as it prints it.",
        metavar="HOST:PORT",
        variables=("RAYHPC_HEAD", "RAY_HEAD_IP"),
    )
    port: int = option(
        0,
        "Port of the head at which the terminals meet. 0: a free one.",
        minimum=0,
        maximum=65535,
        metavar="PORT",
        variables=("RAYHPC_PORT", "RAY_HEAD_PORT"),
    )
    nodes: int = option(2, "The head and its workers: so many terminals.", minimum=1, metavar="N")
    token_file: str = option("", "File of the secret, where the hosts share no home directory.", metavar="FILE")
