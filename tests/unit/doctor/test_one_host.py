"""Each check of one host, broken on purpose: its id alone is reported. A healthy host is silent.

The host is a set of namespaces, so that files, names, limits and networks are really what the check is about.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launch import REPOSITORY, skip
from tests.slurm.slurm_cluster import why_unavailable

# A host called `sound` with one network, where no Ray runs; D is a directory of the test's, H the home directory.
SOUND = """
set -e
hostname sound; echo "10.9.9.9 sound" > $D/hosts; mount --bind $D/hosts /etc/hosts
ip link set lo up; ip link add eth0 type bridge; ip addr add 10.9.9.9/24 dev eth0; ip link set eth0 up
mount -t tmpfs none /dev/shm; mount -t tmpfs none /mnt; mkdir /mnt/tmp; cd $D; umask 022
"""
WITH_VERBS = """
mkdir /mnt/dev; for name in null zero urandom; do cp -a /dev/$name /mnt/dev; done
mkdir -m 1777 /mnt/dev/shm /mnt/dev/infiniband; mount --bind /mnt/dev /dev; mount -t tmpfs none /dev/shm
"""
SLOW = "import-ray,gpu-torch"


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs `rayhpc doctor --json` on a sound host after some commands; the findings."""
    if reason := why_unavailable():
        skip(reason)

    def run(broken: str = "", *words: str, **environment: str) -> list[dict[str, Any]]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environ = {**kept, "D": str(tmp_path), "H": str(home), "HOME": str(home), "TMPDIR": "/mnt/tmp", **environment}
        chosen = words if "--only" in words else (f"--skip={SLOW}", *words)
        command = [sys.executable, "-m", "rayhpc", "doctor", "--json", *chosen]
        done = subprocess.run(
            ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--mount-proc", "--kill-child",
             "bash", "-c", f'{SOUND}\n{broken}\n"$@"', "bash", *command],
            env=environ, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        assert done.returncode == (78 if any(each["verdict"] == "fail" for each in found) else 0)
        return found

    return run


Doctor = Callable[..., list[dict[str, Any]]]


def test_a_sound_host_is_silent(doctor: Doctor) -> None:
    assert doctor() == []


BROKEN: list[tuple[str, str, str, tuple[str, ...], dict[str, str]]] = [
    ("home", "warn", "mount -t tmpfs -o size=64k none $H", (), {}),
    ("home", "warn", "mount -t tmpfs -o ro none $H", ("--run-dir", "/mnt/runs"), {}),
    ("umask", "fail", "umask 0700", (), {}),
    ("umask", "warn", "umask 0", (), {}),
    ("run-dir", "fail", "", ("--run-dir", "/proc/nowhere"), {}),
    ("run-dir", "fail", "mkdir /mnt/r; mount -t tmpfs -o size=9m none /mnt/r", ("--run-dir", "/mnt/r/runs"), {}),
    ("temp-dir", "warn", "mount -t tmpfs -o noexec none /mnt/tmp", (), {}),
    ("temp-dir", "warn", "mount -t tmpfs -o size=9m none /mnt/tmp", (), {}),
    ("temp-dir", "warn", "mount -t tmpfs -o nr_inodes=99 none /mnt/tmp", (), {}),
    ("temp-dir", "warn", "chmod 777 /mnt/tmp", (), {}),
    ("temp-dir", "warn", "", (), {"TMPDIR": "/mnt/" + "x" * 60}),
    ("temp-dir", "fail", "chown 1 /mnt/tmp", ("--temp-dir", "/mnt/tmp"), {}),
    ("shm", "warn", "mount -t tmpfs -o size=9m none /dev/shm", (), {}),
    ("limits", "warn", "ulimit -n 1000", (), {}),
    ("limits", "fail", "ulimit -n 200", (), {}),
    ("limits", "warn", "ulimit -v 2000000", (), {}),
    ("memlock", "warn", f"{WITH_VERBS}\nulimit -l 64", (), {}),
    ("host-name", "warn", "hostname nowhere", (), {}),
    ("host-name", "warn", "echo 127.0.1.1 sound > /etc/hosts", (), {}),
    ("interfaces", "warn", "ip addr del 10.9.9.9/24 dev eth0; ip addr add fd00::9/64 dev eth0 nodad", (), {}),
    ("proxy", "warn", "", (), {"https_proxy": "http://me:secret@10.9.9.9:3128"}),
    ("proxy", "fail", "python3 -m http.server 3128 2>/dev/null >&2 & sleep 1", (),
     {"http_proxy": "http://10.9.9.9:3128", "no_grpc_proxy": "site.org"}),
    ("ray-variables", "warn", "", (), {"RAY_ADDRESS": "10.0.0.1:6379"}),
    ("other-ray", "warn", "cp $(command -v sleep) /mnt/raylet; /mnt/raylet 60 &", (), {}),
    ("ray-token", "warn", "mkdir $H/.ray; touch $H/.ray/auth_token", (), {}),
    ("jobscript-version", "warn", "", (), {"RAYHPC_SUBMITTED_BY": "0.0.1"}),
    ("dashboard", "fail", "", ("--dashboard",), {}),
    ("mpi-library", "fail", "echo 'raise RuntimeError(1)' > /mnt/mpi4py.py", (), {"PYTHONPATH": "/mnt"}),
    ("mpi-launcher", "warn", "mkdir /mnt/b; printf '#!/bin/sh\\necho \"mpiexec (OpenRTE) 4.1.4\"' > /mnt/b/mpiexec;"
     "chmod +x /mnt/b/mpiexec; export PATH=/mnt/b:$PATH", (), {}),
    ("deadline", "fail", "", (), {"COBALT_JOBID": "1", "COBALT_ENDTIME": "1000"}),
    ("deadline", "warn", "export PATH=/mnt", (), {"PBS_JOBID": "1"}),
    ("requeue", "warn", "mkdir /mnt/b; printf '#!/bin/sh\\necho \"Job Id: 1\"; echo \"    Walltime.Remaining = 900\"' "
     "> /mnt/b/qstat; chmod +x /mnt/b/qstat; export PATH=/mnt/b", (),
     {"PBS_JOBID": "1", "RAYHPC_REQUEUE": "yes"}),
    ("job-memory", "warn", "export PATH=/mnt", (),
     {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": "9999999999", "SLURM_MEM_PER_NODE": "100", "SLURM_CPUS_ON_NODE": "2"}),
    ("gpu-variables", "fail", "", (), {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "2,3"}),
    ("gpu-tiles", "warn", "", (), {"ZE_AFFINITY_MASK": "0.1"}),
    ("gpu-driver", "fail", "", (), {"CUDA_VISIBLE_DEVICES": "0"}),
    ("gpu-count", "fail", "export PATH=/mnt", (),
     {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": "9999999999", "SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": ""}),
    ("site-table", "warn", "", (), {"RAYHPC_SITE": "frontier"}),
    ("site-table", "warn", "", (), {"NERSC_HOST": "perlmutter"}),
    ("site-table", "fail", "", (), {"RAYHPC_SITE": "nowhere"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "verdict", "commands", "words", "environment"),
    BROKEN,
    ids=[f"{entry[0]}-{place}" for place, entry in enumerate(BROKEN)],
)
def test_what_is_broken_is_reported_alone(
    check: str, verdict: str, commands: str, words: tuple[str, ...], environment: dict[str, str], doctor: Doctor
) -> None:
    found = doctor(commands, *words, **environment)
    assert [(each["id"], each["verdict"]) for each in found] == [(check, verdict)], found
    (each,) = found
    assert each["where"] in ("sound", "nowhere")
    assert each["next_step"]
    assert "secret" not in json.dumps(found)


OURS = """
title: Ours
source: [https://docs.example.org/cluster]
date: 2026-01-31
scheduler: pbs
queues: {short: {limits: {1-4: 01:00:00}}}
cpus: 1
gpus: 2
gpu_variable: CUDA_VISIBLE_DEVICES
interface: eth*
scratch: /mnt/tmp
node_local: /mnt/tmp
"""


@pytest.mark.parametrize(
    ("key", "value", "environment", "expected"),
    [
        ("", "", {}, ""),
        ("interface", "hsn*", {}, "network: the table says hsn*, and there are eth0"),
        ("scratch", "/lustre/nowhere", {}, "scratch: the table says /lustre/nowhere, which is not here"),
        ("gpus", "1", {"HIP_VISIBLE_DEVICES": "0,1"}, "GPUs: the table says 1 at most, and this rank has 2"),
        ("gpu_variable", "ZE_AFFINITY_MASK", {"HIP_VISIBLE_DEVICES": "0"}, "named by HIP_VISIBLE_DEVICES"),
        ("gpu_variable", "ROCR_VISIBLE_DEVICES", {"HIP_VISIBLE_DEVICES": "0"}, ""),
        ("cpus", "9999", {"SLURM_JOB_ID": "1"}, "CPUs: the table says 9999 at least"),
        ("scheduler", "pbs", {"SLURM_JOB_ID": "1"}, "scheduler: the table says pbs, and this is a job of slurm"),
    ],
)
def test_a_host_and_the_table_of_its_site(
    key: str, value: str, environment: dict[str, str], expected: str, doctor: Doctor, tmp_path: Path
) -> None:
    lines = [line for line in OURS.splitlines() if line.partition(":")[0] not in (key, "gpu_variable")]
    own = tmp_path / "home" / ".config" / "rayhpc" / "sites" / "ours.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("\n".join([*lines, f"{key}: {value}" if key else ""]))
    found = doctor("", "--only", "site-table", RAYHPC_SITE="ours", **environment)
    assert bool(found) == bool(expected), found
    assert expected in " ".join(line for each in found for line in each["evidence"])
