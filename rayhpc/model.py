"""The data of the program: environment + host -> RankResources -> ClusterSpec -> Assignment -> Outcome -> exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from rayhpc.errors import Fault

HEAD_RANK = 0


@dataclass(frozen=True)
class Interface:
    """A network interface of a host that is up, with one of its addresses."""

    name: str
    address: str


@dataclass(frozen=True)
class Gpus:
    """GPUs that a rank may use: the ids as its vendor's variable names them, e.g. ('GPU-4a1…',).

    devices: what tells them from those of other ranks on the host, where the ids alone do not; others: what the
    variables of other vendors say of the same GPUs, where several are set.
    """

    variable: str = "CUDA_VISIBLE_DEVICES"
    ids: tuple[str, ...] = ()
    devices: tuple[str, ...] = field(default=(), compare=False)
    others: tuple[Gpus, ...] = ()

    @property
    def all_variables(self) -> tuple[Gpus, ...]:
        """This variable and the others."""
        return (self, *self.others)


@dataclass(frozen=True)
class Versions:
    """What must be equal on all ranks."""

    ray: str
    python: str
    rayhpc: str


@dataclass(frozen=True)
class RankResources:
    """What one rank finds on its host: everything it may use, before the host's share is divided.

    cpus: ids of the CPUs in its affinity mask; cpu_limit: whole CPUs that the cgroup grants; scheduler_cpus: the
    scheduler's figure for the host, None where it names none; memory and shm in bytes; address_space: of a process, in
    bytes, None where it has no limit; argv: the driver as it is executed, on rank 0 alone.
    """

    rank: int
    host: str
    host_id: str
    interfaces: tuple[Interface, ...]
    cpus: frozenset[int]
    cpu_limit: int | None
    scheduler_cpus: int | None
    memory: int
    shm: int
    gpus: Gpus
    temp_base: str
    versions: Versions
    launcher: str
    warnings: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    address_space: int | None = None


@dataclass(frozen=True)
class NodeSpec:
    """One Ray node: a rank's share of its host. memory and object_store in bytes.

    store_dir: where the object store lies if not in /dev/shm.
    """

    rank: int
    host: str
    address: str
    cpus: int
    gpus: Gpus
    memory: int
    object_store: int
    temp_dir: str
    store_dir: str = ""

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"rank {self.rank} on {self.host}"


@dataclass(frozen=True)
class ClusterSpec:
    """What all ranks agreed on. Holds no secret: it is written to cluster.json.

    ranks, hosts: with the spares; nodes: those that shall start; spares: those that wait to take the place of one.
    joins: HOST:PORT of the cluster that these nodes join; empty for a cluster of their own.
    """

    run_id: str
    run_dir: str
    port: int
    dashboard_port: int
    ranks: int
    hosts: int
    versions: Versions
    scheduler: str
    batch_job_id: str
    deadline: float
    nodes: tuple[NodeSpec, ...]
    spares: tuple[NodeSpec, ...] = ()
    joins: str = ""

    @property
    def head(self) -> NodeSpec:
        """The node that rank 0 runs."""
        return self.nodes[0]

    @property
    def address(self) -> str:
        """host:port of the head's GCS, as RAY_ADDRESS wants it."""
        host = self.head.address
        return self.joins or (f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}")

    @cached_property
    def _by_rank(self) -> dict[int, NodeSpec]:
        return {node.rank: node for node in (*self.nodes, *self.spares)}

    def node(self, rank: int) -> NodeSpec | None:
        """The node of a rank; None for a rank that idles."""
        return self._by_rank.get(rank)

    def host(self, rank: int) -> str:
        """The host of a rank's node; 'rank 7' where it has none."""
        return self._by_rank[rank].host if rank in self._by_rank else f"rank {rank}"


@dataclass(frozen=True)
class Certificate:
    """What --tls gives every process of a run, in PEM: one certificate, which is its own authority, and its key."""

    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Assignment:
    """What rank 0 assigns to one rank: constant in size, whatever the number of nodes. node: None for an idle rank.

    ray: its version; certificate: None without --tls; it names every host, some 10 bytes each; metrics: whether the
    nodes tell theirs; spare: whether the node waits to take another's place; joins: the nodes join the cluster of
    another run.
    """

    run_id: str
    run_dir: str
    head_address: str
    dashboard_port: int
    nodes: int
    ray: str
    node: NodeSpec | None
    token: str = field(repr=False)
    certificate: Certificate | None = None
    metrics: bool = False
    spare: bool = False
    joins: bool = False


@dataclass(frozen=True)
class AliveNode:
    """A row of Ray's node table that is alive; rank: None for a node of no rank of this run; id: new at each start.

    metrics_port: where its agent tells its metrics; 0 or below where it has none; guest: RUN.RANK of a node that
    another run has brought, else empty.
    """

    rank: int | None
    address: str
    cpus: float
    gpus: float
    id: str = ""
    metrics_port: int = 0
    guest: str = ""


@dataclass(frozen=True)
class Probe:
    """Where rank 0 listens, so that each worker can try which of the head's addresses it reaches."""

    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True)
class Reach:
    """What a worker reached: the head's addresses, each with its own address on the way there."""

    rank: int
    place: str
    own: dict[str, str]
    refusals: tuple[str, ...] = ()


# As the scheduler of an entry: KubeRay keeps the cluster, and the job id is its name on Kubernetes.
KUBERAY = "kuberay"


@dataclass(frozen=True)
class ClusterEntry:
    """What the registry says of a run, for the login side. Holds no secret.

    id: the run's; host: the head's; address: HOST:PORT of the GCS; dashboard: its URL as reached from other hosts,
    empty without one; run_dir: absolute; scheduler, batch_job_id: empty outside of a batch job; command: the driver's,
    empty under --hold; started_at, deadline: Unix seconds, 0 where there is no end; pid: of rank 0, on host; metrics:
    the URL of its Prometheus on that host, empty without one; guests: the nodes that other jobs have brought, a line
    each, also of those that have left; nodes, cpus and gpus are what is there now.
    """

    id: str
    user: str
    host: str
    address: str
    dashboard: str
    nodes: int
    cpus: float
    gpus: float
    run_dir: str
    scheduler: str
    batch_job_id: str
    command: tuple[str, ...]
    started_at: float
    deadline: float
    tls: bool
    pid: int
    metrics: str = ""
    guests: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadHost:
    """A host that was bad for a run. at: Unix seconds."""

    host: str
    reason: str
    at: float


@dataclass(frozen=True)
class Checked:
    """What a check has said before a run. excluded: this rank shall have no node; bad: hosts, on rank 0 alone."""

    excluded: bool = False
    bad: tuple[BadHost, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How the run ended: the exit code of the job, and the fault where it was one of ours."""

    code: int
    cause: str
    fault: Fault | None = None

    @classmethod
    def of(cls, fault: Fault) -> Outcome:
        """The outcome that a fault of ours makes."""
        return cls(int(fault.code), fault.what, fault)
