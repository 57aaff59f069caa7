"""What a host has: psutil, /proc and /sys are replaced by tables."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import this_host
from rayhpc.model import Interface
from rayhpc.processes import this_process


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Kernel files by path; what is not in it does not exist."""
    files: dict[str, str] = {}
    monkeypatch.setattr(this_host, "_read", lambda path: files.get(str(path), ""))
    return files


# Interfaces.

ADDRESSES = {
    "lo": ["127.0.0.1", "::1"],
    "eno1": ["10.1.0.5", "fe80::1%eno1"],
    "eth0": ["192.168.0.5"],
    "ib0": ["10.2.0.5", "fd00::5"],
    "hsn1": ["10.3.0.6"],
    "hsn0": ["10.3.0.5"],
    "docker0": ["172.17.0.1"],
    "veth12ab": ["10.9.0.1"],
    "ib1": ["10.2.0.6"],  # down
}


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    table = {name: list(addresses) for name, addresses in ADDRESSES.items()}
    link = SimpleNamespace(family=socket.AF_PACKET, address="aa:bb:cc:dd:ee:ff")
    monkeypatch.setattr(
        psutil,
        "net_if_addrs",
        lambda: {
            name: [link, *(SimpleNamespace(family=family(a), address=a) for a in addresses)]
            for name, addresses in table.items()
        },
    )
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: SimpleNamespace(isup=name != "ib1") for name in table})
    return table


def names(wanted: str = "") -> list[str]:
    return [entry.name for entry in this_host.interfaces(wanted)]


def test_fast_networks_come_first_and_ipv4_before_ipv6(networks: dict[str, list[str]]) -> None:
    assert this_host.interfaces() == (
        Interface("hsn0", "10.3.0.5"),
        Interface("hsn1", "10.3.0.6"),
        Interface("ib0", "10.2.0.5"),
        Interface("ib0", "fd00::5"),
        Interface("eth0", "192.168.0.5"),
        Interface("eno1", "10.1.0.5"),
    )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("eth0", ["eth0"]),
        ("hsn*", ["hsn0", "hsn1"]),
        ("e*", ["eth0", "eno1", "eno1"]),  # asked for by name, a link-local address counts
        ("10.3.0.0/16", ["hsn0", "hsn1"]),
        ("10.3.0.7/16", ["hsn0", "hsn1"]),  # an address with its prefix, as `ip addr` prints it
        ("fd00::/8", ["ib0"]),
        ("10.2.0.5", ["ib0"]),
        ("docker0", ["docker0"]),
        ("lo", ["lo", "lo"]),
        ("ib1", []),
        ("eth1", []),
        ("172.16.0.0/16", []),
    ],
)
def test_interfaces_are_matched_by_name_glob_network_or_address(
    networks: dict[str, list[str]], wanted: str, expected: list[str]
) -> None:
    assert names(wanted) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.3.0.6", "hsn1"), ("fd00::5", "ib0"), ("fe80::1", "eno1"), ("127.0.0.1", "lo"), ("10.3.0.9", "")],
)
def test_an_address_names_its_interface(networks: dict[str, list[str]], address: str, expected: str) -> None:
    assert this_host.interface_of(address) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.1.1", "fe80::1"])
def test_what_no_other_host_reaches_is_not_offered(networks: dict[str, list[str]], address: str) -> None:
    networks.clear()
    networks["eth0"] = [address]
    assert names() == []


@pytest.mark.parametrize(
    "name", ["docker0", "br-1f2e", "virbr0", "veth3", "cni0", "flannel.1", "tun0", "tap1", "lxcbr0"]
)
def test_bridges_and_tunnels_are_not_offered(networks: dict[str, list[str]], name: str) -> None:
    networks.clear()
    networks.update({name: ["10.0.0.1"], "weird7": ["10.0.0.2"]})
    assert names() == ["weird7"]


def test_an_interface_without_a_state_is_left_out(
    networks: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "net_if_stats", dict)
    assert names() == []


# Names.


@pytest.mark.parametrize(("full", "short"), [("n1", "n1"), ("n1.site.org", "n1"), ("", "localhost")])
def test_the_name_is_short(monkeypatch: pytest.MonkeyPatch, full: str, short: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: full)
    assert this_host.name() == short


def test_the_identity_is_of_the_host_and_not_of_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = this_host.identity()
    assert this_host.identity() == first
    monkeypatch.setattr(socket, "gethostname", lambda: "other")
    assert this_host.identity() != first


# CPUs and memory of the cgroup.

V2 = "/sys/fs/cgroup/job/step"


def test_without_a_cgroup_no_quota(kernel: dict[str, str]) -> None:
    assert this_host.cpu_limit() is None


@pytest.mark.parametrize(
    ("quota", "limit"),
    [("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None), ("1 0", None)],
)
def test_the_quota_of_version_2(kernel: dict[str, str], quota: str, limit: int | None) -> None:
    kernel.update({"/proc/self/cgroup": "0::/job/step", f"{V2}/cpu.max": quota})
    assert this_host.cpu_limit() == limit


@pytest.mark.parametrize("directory", ["/sys/fs/cgroup/job/step", "/sys/fs/cgroup/job", "/sys/fs/cgroup"])
def test_every_level_may_limit(kernel: dict[str, str], directory: str) -> None:
    kernel.update({"/proc/self/cgroup": "0::/job/step", f"{V2}/cpu.max": "max 100000"})
    kernel[f"{directory}/cpu.max"] = "300000 100000"
    kernel[f"{directory}/memory.max"] = str(2**20)
    assert this_host.cpu_limit() == 3
    assert this_host.memory() == 2**20


@pytest.mark.parametrize(("quota", "limit"), [("200000", 2), ("-1", None)])
def test_the_quota_of_version_1(kernel: dict[str, str], quota: str, limit: int | None) -> None:
    kernel.update(
        {
            "/proc/self/cgroup": "4:memory:/slurm/job_7\n2:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/init",
            "/sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_quota_us": quota,
            "/sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_period_us": "100000",
            "/sys/fs/cgroup/memory/slurm/cpu.cfs_quota_us": "100000",  # no CPU controller: not looked at
        }
    )
    assert this_host.cpu_limit() == limit


@pytest.mark.parametrize(("text", "limit"), [("80", 80), ("max", None), ("", None)])
def test_processes_that_a_cgroup_allows(kernel: dict[str, str], text: str, limit: int | None) -> None:
    kernel.update({"/proc/self/cgroup": "8:pids:/job/step", "/sys/fs/cgroup/pids/job/pids.max": text})
    kernel["/sys/fs/cgroup/pids/job/step/pids.events"] = "max 7"
    assert this_host.process_limit() == limit
    assert this_host.refused_processes() == 7
    kernel["/proc/self/cgroup"] = "0::/job/step"
    assert (this_host.process_limit(), this_host.refused_processes()) == (None, 0)


def test_the_memory_of_version_1(kernel: dict[str, str]) -> None:
    kernel["/proc/self/cgroup"] = "4:memory:/slurm/job_7"
    kernel["/sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes"] = "1048576"
    assert this_host.memory() == 2**20


@pytest.mark.parametrize("text", ["max", "9223372036854771712", ""])
def test_an_unlimited_cgroup_has_what_the_host_has_free(
    kernel: dict[str, str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12345))
    kernel.update({"/proc/self/cgroup": "0::/job/step", f"{V2}/memory.max": text})
    assert this_host.memory() == 12345


def test_a_path_with_colons_is_one_path(kernel: dict[str, str]) -> None:
    kernel.update({"/proc/self/cgroup": "0::/a:b", "/sys/fs/cgroup/a:b/cpu.max": "100000 100000"})
    assert this_host.cpu_limit() == 1


def test_the_affinity_is_this_process_s() -> None:
    assert this_host.affinity() == os.sched_getaffinity(0)


# File systems.


def mounted(monkeypatch: pytest.MonkeyPatch, *mounts: tuple[str, str]) -> None:
    table = [
        SimpleNamespace(
            mountpoint=point, fstype=kind.partition(",")[0], opts=f"rw{kind[len(kind.partition(',')[0]) :]}"
        )
        for point, kind in mounts
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: table)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"), ("/etc/x", "ext4"), ("/scratch", "lustre"), ("/scratch/a/b", "lustre"),
        ("/scratch/local", "xfs"), ("/scratch/local/tmp", "xfs"), ("/scratchy", "ext4"), ("/two words/x", "nfs4"),
    ],
)  # fmt: skip
def test_the_longest_mount_point_counts(monkeypatch: pytest.MonkeyPatch, path: str, kind: str) -> None:
    mounted(monkeypatch, ("/", "ext4"), ("/scratch", "lustre"), ("/scratch/local", "xfs"), ("/two words", "nfs4"))
    assert this_host.file_system(path) == kind


def test_noexec_is_of_the_mount_that_holds_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch, ("/", "ext4"), ("/scratch", "xfs,nosuid,noexec"), ("/scratch/local", "xfs,nosuid"))
    paths = ("/x", "/scratch/x", "/scratch/local/x")
    assert [this_host.forbids_programs(path) for path in paths] == [False, True, False]


def test_a_link_is_followed_to_its_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    mounted(monkeypatch, ("/", "ext4"), (str(tmp_path / "far"), "gpfs"))
    assert this_host.file_system(str(tmp_path / "link" / "x")) == "gpfs"


# As with autofs: psutil lists both, in the order of mounting.
@pytest.mark.parametrize("kind", ["afs", "9p", "nfs4", "lustre"])
def test_of_two_mounts_on_one_point_the_later_is_seen(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounted(monkeypatch, ("/", "ext4"), ("/home", "autofs"), ("/home", kind))
    assert this_host.file_system("/home/me") == kind


def test_free_space(tmp_path: Path) -> None:
    assert this_host.free_space(str(tmp_path)) > 0
    assert this_host.free_space(str(tmp_path / "nowhere")) == 0


# Limits.


def test_limits_are_raised_and_told_where_they_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {resource.RLIMIT_NOFILE: (256, 1024), resource.RLIMIT_NPROC: (100, 8192)}
    monkeypatch.setattr(resource, "getrlimit", kernel.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", kernel.__setitem__)
    this_process.raise_soft_limits()
    (warning,) = this_process.small_limits()
    assert kernel == {resource.RLIMIT_NOFILE: (1024, 1024), resource.RLIMIT_NPROC: (8192, 8192)}
    assert warning.startswith("only 1024 open files are allowed (ulimit -Hn)")


@pytest.mark.parametrize(
    ("kind", "words"), [(resource.RLIMIT_NOFILE, "only 64 open files"), (resource.RLIMIT_NPROC, "only 64 processes")]
)
def test_a_limit_with_which_ray_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, kind: int, words: str) -> None:
    kernel = {resource.RLIMIT_NOFILE: (9000, 9000), resource.RLIMIT_NPROC: (9000, 9000), kind: (64, 64)}
    monkeypatch.setattr(resource, "getrlimit", kernel.__getitem__)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RayhpcError, match=f"{words} are allowed, and Ray needs 256 at least") as caught:
        this_process.small_limits()
    assert caught.value.fault.code == ExitCode.CONFIGURATION


def test_roots_processes_are_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {resource.RLIMIT_NOFILE: (9000, 9000), resource.RLIMIT_NPROC: (64, 64)}
    monkeypatch.setattr(resource, "getrlimit", kernel.__getitem__)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert this_process.small_limits() == ()


def test_the_limit_of_a_cgroup_is_roots_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (warning,) = this_process.small_limits(300)
    assert warning.startswith("only 300 processes are allowed (the cgroup's pids.max)")
    with pytest.raises(RayhpcError, match="only 80 processes are allowed, and Ray needs 256 at least") as caught:
        this_process.small_limits(80)
    assert "the cgroup's pids.max: 80" in caught.value.fault.evidence[0]


def test_no_limit_needs_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert this_process.small_limits() == ()


def test_when_a_process_was_started() -> None:
    """Not a fraction of a second earlier, by which the kernel's time of its boot is too early."""
    before = time.time()
    done = subprocess.run(
        [sys.executable, "-c", "from rayhpc.host import this_host; print(this_host.started_at())"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert before - 0.02 < float(done.stdout) < time.time()
