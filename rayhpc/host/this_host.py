"""What this host has and what this process may use of it. The only owner of psutil."""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Collection
from pathlib import Path

import psutil

from rayhpc.model import Interface

NETWORK_FILE_SYSTEMS = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "lustre",
        "gpfs",
        "beegfs",
        "panfs",
        "ceph",
        "wekafs",
        "afs",
        "pvfs2",
        "orangefs",
        "9p",
        "dvs",
        "gfs2",
        "ocfs2",
        "fuse.beegfs",
        "fuse.ceph",
        "fuse.ceph-fuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.sshfs",
    ]
)
# Bridges and tunnels of container and virtual machine software: up, with an address that no other host can reach.
_VIRTUAL = ("docker*", "br-*", "virbr*", "veth*", "cni*", "flannel*", "podman*", "tun*", "tap*", "lxc*")
# High-speed networks first: Slingshot, InfiniBand, Omni-Path, then Ethernet under its three names.
_PREFERRED = ("hsn*", "ib*", "opa*", "bond*", "eth*", "en*", "*")


def name() -> str:
    """The host's name without its domain."""
    return socket.gethostname().partition(".")[0] or "localhost"


def identity() -> str:
    """Equal on two ranks exactly if they are on the same host.

    Names may be equal on two machines and the boot id in two containers, so both count, and the network namespace.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [socket.gethostname(), boot.read_text().strip() if boot.exists() else ""]
    namespace = Path("/proc/self/ns/net")
    return "/".join([*parts, os.readlink(namespace) if namespace.exists() else ""])


def interfaces(wanted: str = "") -> tuple[Interface, ...]:
    """Addresses by which other hosts may reach this one, the most promising first; empty if none is up.

    wanted: an interface's name, a glob, or a CIDR; an IPv4 address is preferred where an interface has both.
    """
    states = psutil.net_if_stats()
    found = [entry for entry in _addresses() if entry.name in states and states[entry.name].isup]
    usable = [entry for entry in found if _matches(entry, wanted)]
    return tuple(sorted(usable, key=_preference))


def interface_of(address: str) -> str:
    """The name of the interface that has one of this host's addresses; empty for an address of another host."""
    return next((entry.name for entry in _addresses() if entry.address == address), "")


def _addresses() -> list[Interface]:
    """Every interface, up or not, once with each address."""
    return [
        Interface(interface, address.address.partition("%")[0])
        for interface, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]


def _matches(entry: Interface, wanted: str) -> bool:
    address = ipaddress.ip_address(entry.address)
    if "/" in wanted:
        network = ipaddress.ip_network(wanted, strict=False)
        return address.version == network.version and address in network
    if wanted:
        return fnmatch.fnmatch(entry.name, wanted) or entry.address == wanted
    virtual = any(fnmatch.fnmatch(entry.name, pattern) for pattern in _VIRTUAL)
    return not (address.is_loopback or address.is_link_local or virtual)


def _preference(entry: Interface) -> tuple[int, bool, str]:
    order = next(n for n, pattern in enumerate(_PREFERRED) if fnmatch.fnmatch(entry.name, pattern))
    return order, ":" in entry.address, entry.name


def affinity() -> frozenset[int]:
    """CPUs on which this process may run."""
    return frozenset(os.sched_getaffinity(0))


def cpu_count() -> int:
    """CPUs of the host, whoever may use them."""
    return psutil.cpu_count() or 1


def cpu_limit() -> int | None:
    """Whole CPUs that the cgroup's quota grants, at least 1; None without a quota."""
    quotas = [
        int(quota) / int(period)
        for directory in _cgroups("cpu")
        for quota, period in [_cpu_quota(directory)]
        if quota.isdigit() and period.isdigit() and int(period)
    ]
    return max(1, int(min(quotas))) if quotas else None


def _cpu_quota(directory: Path) -> tuple[str, str]:
    """(quota, period) of a cgroup as the kernel spells them: version 2 in one file, version 1 in two."""
    both = _read(directory / "cpu.max").split()
    if len(both) == 2:
        return both[0], both[1]
    return _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")


def memory() -> int:
    """Bytes of memory this process may use: what the host has free, or the cgroup's limit if that is lower."""
    available = int(psutil.virtual_memory().available)
    return min(available, memory_limit() or available)


def memory_limit() -> int | None:
    """Bytes that the cgroup grants; None without a limit."""
    limits = [
        int(text)
        for directory in _cgroups("memory")
        for file in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(directory / file)).isdigit()
    ]
    return min(limits, default=None)


def total_memory() -> int:
    """Bytes of memory of the host, whoever may use them."""
    return int(psutil.virtual_memory().total)


def processes(names: Collection[str]) -> list[tuple[int, str, str]]:
    """Processes of these names, whoever owns them: (pid, name, account)."""
    found = psutil.process_iter(["pid", "name", "username"])
    return [(entry.pid, entry.info["name"], entry.info["username"]) for entry in found if entry.info["name"] in names]


def process_limit() -> int | None:
    """Processes and threads that the cgroup allows, of all that are in it; None without a limit."""
    limits = [int(text) for directory in _cgroups("pids") if (text := _read(directory / "pids.max")).isdigit()]
    return min(limits, default=None)


def refused_processes() -> int:
    """How many processes and threads this process's own cgroup has refused since it was made."""
    words = next((_read(directory / "pids.events").split() for directory in _cgroups("pids")), [])
    return int(words[1]) if words[:1] == ["max"] else 0


def _cgroups(controller: str) -> list[Path]:
    """The cgroup directories of this process for a controller, its own first, up to the root: each may limit it."""
    found: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = Path("/sys/fs/cgroup")
        elif controller in controllers.split(","):
            root = Path("/sys/fs/cgroup", controller)
        else:
            continue
        own = root / path.strip("/")
        found += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return found


def _read(path: Path) -> str:
    """A kernel file's text; empty where this kernel has none or it may not be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def free_space(directory: str) -> int:
    """Bytes that this user may still write below a directory; 0 where it does not exist."""
    try:
        return psutil.disk_usage(directory).free
    except FileNotFoundError:
        return 0


def free_files(directory: str) -> int:
    """Files that this user may still make below a directory; as good as endless where the file system counts none."""
    found = os.statvfs(directory)
    return found.f_favail if found.f_files else sys.maxsize


def file_system(path: str) -> str:
    """The type of the file system that holds a path, as the kernel names it; empty if unknown."""
    return _mount(path)[0]


def forbids_programs(path: str) -> bool:
    """True where nothing below a path may be executed: it is mounted noexec."""
    return "noexec" in _mount(path)[1].split(",")


def _mount(path: str) -> tuple[str, str]:
    """Type and options of the mount that holds a path."""
    real = os.path.realpath(path)
    mounts = [
        (len(mount.mountpoint), place, mount.fstype, mount.opts)
        for place, mount in enumerate(psutil.disk_partitions(all=True))  # of two on one point the later is seen
        if real == mount.mountpoint or real.startswith(mount.mountpoint.rstrip("/") + "/")
    ]
    return max(mounts, default=(0, 0, "", ""))[2:]


def started_at() -> float:
    """Unix seconds at which this process was started, to a hundredth.

    The kernel tells the time of its boot in whole seconds, so it is only used to take it away again.
    """
    since_boot = psutil.Process().create_time() - psutil.boot_time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
