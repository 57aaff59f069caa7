"""`--check` on four hosts of a real Slurm: silent where all is well; what is broken on one host is named, with it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

# What one host runs before its rank starts: in the rank's own shell, whose limits, mask and variables are its own.
RANK = """#!/bin/bash
if [ "$(hostname)" = node3 ]; then
{broken}
fi
exec "$PYTHON" -m rayhpc.start --check
"""
SKEW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += 90;
    return code;
}
"""
Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def check(slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path) -> Check:
    """Runs `srun … python -m rayhpc.start --check`, with commands that break node3 alone."""
    (tmp_path / "home").mkdir()

    def run(broken: str = ":", *flags: str, python: Path = mpich_python) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "rank.sh"
        script.write_text(RANK.replace("{broken}", broken))
        path = f"{python.parent}:/usr/sbin:/usr/bin:/bin"
        env = {"HOME": str(tmp_path / "home"), "PYTHON": str(python), "PATH": path}
        words = ("srun", "-N4", "--exclusive", "--mpi=pmi2", *flags, "bash", script)
        return slurm_cluster.sh("ctl", *words, cwd=tmp_path, env=env, check=False)

    return run


def told(done: subprocess.CompletedProcess[str]) -> list[tuple[str, ...]]:
    """(verdict, id, host) of each finding."""
    return re.findall(r"^(warn|fail)  (\S+): .*\[(.*)\]$", done.stderr, re.MULTILINE)


def test_four_hosts_that_are_well(check: Check) -> None:
    check()  # files of Python and Ray are in memory then
    began = time.monotonic()
    done = check()
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 15  # 5 s where the four hosts have a core each
    assert re.fullmatch(r"rayhpc doctor: \d+ checks on 4 hosts in [0-9.]+ s: all is well\n", done.stderr), done.stderr


def test_what_is_broken_on_one_host_is_named_with_it(
    check: Check, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Each is undone before the next: one set of hosts for all of them."""
    (tmp_path / "skew.c").write_text(SKEW)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "skew.so", tmp_path / "skew.c", "-ldl"], check=True)
    (tmp_path / "other" / "numpy-1.0.dist-info").mkdir(parents=True)
    on_node3: list[tuple[str, str, str]] = [
        ("umask", "umask 0", ""),
        ("limits", "ulimit -n 200", ""),
        ("clock", f"export LD_PRELOAD={tmp_path}/skew.so", ""),
        ("versions", f"export PYTHONPATH={tmp_path}/other", ""),
        ("ports", "ip rule add ipproto tcp dport 10002-19999 prohibit", "ip rule del ipproto tcp dport 10002-19999"),
        ("speed", "tc qdisc add dev eth0 root tbf rate 80mbit burst 64k latency 400ms", "tc qdisc del dev eth0 root"),
        ("shm", "mount -o remount,size=9m /dev/shm", "mount -o remount,size=2g /dev/shm"),
        ("host-name", "mkdir -p /tmp/etc; mount --bind /dev/null /etc/hosts", "umount /etc/hosts"),
    ]
    for name, broken, mended in on_node3:
        done = check(broken)
        assert {(found, where) for _, found, where in told(done)} == {(name, "node3")}, done.stderr
        assert done.returncode == (78 if told(done)[0][0] == "fail" else 0)
        if mended:
            slurm_cluster.sh("node3", *mended.split())


def test_a_host_that_another_cannot_reach(check: Check, slurm_cluster: SlurmCluster) -> None:
    address = slurm_cluster.sh("ctl", "getent", "hosts", "node4").stdout.split()[0]
    # Without MPI, which would not even start.
    flags = ("--mpi=none", "--export=ALL,RAYHPC_RENDEZVOUS=slurm")
    done = check(f"ip route add blackhole {address}", *flags)
    slurm_cluster.sh("node3", "ip", "route", "del", "blackhole", address)
    assert ("fail", "reach", "node3") in told(done), done.stderr
    assert "node4 cannot be reached" in done.stderr
    assert done.returncode == 78


def test_a_job_that_may_not_be_requeued_and_asked_for_little(check: Check) -> None:
    """Rank 0 asks for the whole job."""
    forbid = "scontrol update JobId=$SLURM_JOB_ID Requeue=0"
    # sbatch and salloc set the memory's variable, a bare srun does not.
    done = check(forbid, "--mem=100", "--export=ALL,RAYHPC_REQUEUE=yes,SLURM_MEM_PER_NODE=100")
    assert sorted(found for _, found, _ in told(done)) == ["job-memory", "requeue"], done.stderr
    assert {where for _, _, where in told(done)} == {"node1"}


def test_the_check_before_the_driver_of_a_job(
    slurm_cluster: SlurmCluster, mpich_python: Path, tmp_path: Path
) -> None:
    """A failure ends the job with 78, and no driver is started; or the driver runs without the bad host."""
    (tmp_path / "home").mkdir()
    (tmp_path / "driver.py").write_text("import ray; ray.init(); print('driver up on', len(ray.nodes()))")

    def submit(check: str, **variables: str) -> tuple[int, str]:
        env = {"HOME": str(tmp_path / "home"), **variables}
        words = (mpich_python, "-m", "rayhpc", "alloc")
        flags = ("-N2", "-t5", check, "--", "driver.py")
        done = slurm_cluster.sh("ctl", *words, "submit", "slurm", *flags, cwd=tmp_path, env=env)
        job = done.stdout.strip()
        ended = slurm_cluster.sh("ctl", *words, "wait", job, cwd=tmp_path, env=env, check=False, timeout=150)
        shown = slurm_cluster.sh("ctl", *words, "logs", job, cwd=tmp_path, env=env)
        return ended.returncode, shown.stdout

    code, output = submit("--check", RAYHPC_TEMP_DIR="/nowhere")
    assert (code, "driver up" in output) == (78, False), output
    assert re.search(r"^fail  temp-dir: .*\[node1, node2\]$", output, re.MULTILINE), output
    slurm_cluster.sh("node1", "mkdir", "/dev/shm/alone")
    code, output = submit("--check=exclude", RAYHPC_TEMP_DIR="/dev/shm/alone", RAYHPC_MIN_NODES="1")
    slurm_cluster.sh("node1", "rmdir", "/dev/shm/alone")
    assert re.search(r"^fail  temp-dir: .*\[node2\]$", output, re.MULTILINE), output
    assert "a run goes on without these hosts" in output
    assert (code, "driver up on 1" in output) == (0, True), output
