"""Bad worlds: a file system, a limit or a network that Ray cannot use is refused before it starts; others are used.

The worlds are namespaces of the job's own, so that nothing of them is seen outside; making them takes root.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.cells import WORLDS, Cell, met
from tests.faults.odd import BOUND, SUM, left, refused
from tests.launch import Job, Jobs, skip

root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces, mounts and limits of another user need root")
# A user that no account is of: this machine's own files are readable to it, wherever the interpreter lies.
_STRANGER = (
    "setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
)


@pytest.fixture
def here(jobs: Jobs) -> Path:
    """The directory in which the job starts, with a driver that uses Ray and one that must not be reached."""
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "sum.py").write_text(SUM)
    (directory / "ok.py").write_text("print('never')\n")
    return directory


def world(jobs: Jobs, setting: str, *words: str, unshare: str = "-m", env: dict[str, str] | None = None) -> Job:
    """One rank, after shell commands that make the world odd in namespaces of its own; $0 is its directory."""
    start = [jobs.mpi.python, "-m", "rayhpc.start", *words]
    script = f'set -e; {setting}; exec "$@"'
    return jobs.start_raw("unshare", unshare, "bash", "-c", script, str(jobs.directory / "job"), *start, env=env)


def worked(job: Job, *expected: str) -> None:
    """The driver used Ray and ended with 0, and nothing is left."""
    assert job.wait(120) == 0, job.output()
    assert "sum 6" in job.output(), job.output()
    for text in expected:
        assert text in job.output()
    assert not left(job)


# The directory for Ray's session.


@pytest.mark.quick
def test_a_long_tmpdir(jobs: Jobs, here: Path) -> None:
    directory = here / ("x" * (89 - len(str(here))))
    directory.mkdir()
    job = jobs.start("sum.py", ranks=0, env={"TMPDIR": str(directory)})
    worked(job, f"WARNING: temporary directory {directory} is ", " bytes long, at most ", "; using /tmp")
    met(
        Cell(
            WORLDS,
            "TMPDIR of 90 bytes",
            "0; warns: 'temporary directory … is 90 bytes long, at most … fit; using /tmp'",
        )
    )


@root
@pytest.mark.quick
def test_a_full_temp_dir(jobs: Jobs, here: Path, short: Path) -> None:
    job = world(jobs, f"mount -t tmpfs -o size=1m tmpfs {short}", "--temp-dir", str(short), "ok.py")
    seconds = refused(job, 78, f"--temp-dir {short} has 1 MiB free, Ray needs 50 at least")
    met(
        Cell(WORLDS, "--temp-dir on a file system that is full", "78: '… has 1 MiB free, Ray needs 50'", seconds, BOUND)
    )


@root
def test_a_full_tmpdir(jobs: Jobs, here: Path, short: Path) -> None:
    job = world(jobs, f"mount -t tmpfs -o size=1m tmpfs {short}", "sum.py", env={"TMPDIR": str(short)})
    worked(job, f"WARNING: temporary directory {short} has 1 MiB free, Ray needs 50 at least; using /tmp")
    met(Cell(WORLDS, "TMPDIR on a file system that is full", "0; warns: '… has 1 MiB free …; using /tmp'"))


@root
def test_a_temp_dir_without_programs(jobs: Jobs, here: Path, short: Path) -> None:
    job = world(jobs, f"mount -t tmpfs -o noexec tmpfs {short}", "--temp-dir", str(short), "sum.py")
    worked(job, f"WARNING: --temp-dir {short} is mounted noexec: what a runtime_env installs or compiles cannot run")
    met(Cell(WORLDS, "--temp-dir mounted noexec", "0; warns: '… what a runtime_env installs or compiles cannot run'"))


# No network file system can be mounted here; the kernel's table of mounts is replaced by one that names it.
@root
@pytest.mark.parametrize("kind", ["nfs4", "lustre"])
def test_a_temp_dir_on_a_network_file_system(jobs: Jobs, here: Path, short: Path, kind: str) -> None:
    table = f"(cat /proc/self/mounts; echo 'server:/x {short} {kind} rw 0 0') >$0/mounts"
    setting = f"{table}; mount --bind $0/mounts /proc/$$/mounts"
    slow = f"is on {kind}: sockets and memory-mapped files there are slow or fail"
    worked(world(jobs, setting, "--temp-dir", str(short), "sum.py"), f"WARNING: --temp-dir {short} {slow}")
    if kind == "nfs4":
        job = world(jobs, setting, "sum.py", env={"TMPDIR": str(short)})
        worked(job, f"WARNING: temporary directory {short} {slow}; using /tmp")
        met(Cell(WORLDS, "TMPDIR on NFS (by a mount table of ours)", f"0; warns: '… {slow}; using /tmp'"))
    met(
        Cell(
            WORLDS, f"--temp-dir on {kind} (by a mount table of ours)", f"0, since it was asked for; warns: '… {slow}'"
        )
    )


# The run directory.


@root
@pytest.mark.quick
def test_a_read_only_run_dir(jobs: Jobs, here: Path) -> None:
    setting = "mkdir $0/runs; mount --bind $0/runs $0/runs; mount -o remount,bind,ro $0/runs"
    seconds = refused(
        world(jobs, setting, "--run-dir", "runs", "ok.py"), 78, "cannot be written: Read-only file system"
    )
    met(Cell(WORLDS, "run directory read-only", "78: '… cannot be written: Read-only file system'", seconds, BOUND))


@root
@pytest.mark.quick
def test_a_full_run_dir(jobs: Jobs, here: Path) -> None:
    setting = "mkdir $0/runs; mount -t tmpfs -o size=64k tmpfs $0/runs"
    seconds = refused(
        world(jobs, setting, "--run-dir", "runs", "ok.py"), 78, "cannot be written: No space left on device"
    )
    met(Cell(WORLDS, "run directory full", "78: '… cannot be written: No space left on device'", seconds, BOUND))


FILLS = (
    SUM
    + """
import os
with open(os.path.join(os.environ["RAYHPC_RUN_DIR"], "mine"), "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        print(error.strerror, flush=True)
sys.exit(5)
"""
)


@root
def test_a_run_dir_that_fills_up(jobs: Jobs, here: Path) -> None:
    (here / "fills.py").write_text(FILLS)
    small = "mkdir $0/runs; mount -t tmpfs -o size=1m tmpfs $0/runs"
    # The file system goes with its namespace: what lies there is shown before.
    show = '"$@" && code=0 || code=$?; cat $0/runs/2*/outcome.json; exit $code'
    job = world(jobs, f"{small}; {show}", "--run-dir", "runs", "fills.py")
    assert job.wait(120) == 5, job.output()
    assert "No space left on device" in job.output()
    assert "outcome.json could not be completed: No space left on device" in job.output()
    assert '"cause": "the driver ended with 5"' in job.output()
    assert "Traceback" not in job.output()
    assert not left(job)
    met(
        Cell(
            WORLDS,
            "run directory fills up in mid-run",
            "the driver's, also in outcome.json; warns: '… could not be completed: No space…'",
        )
    )


REMOVES = (
    SUM
    + """
import os, shutil
shutil.rmtree(os.environ["RAYHPC_RUN_DIR"])
print("sum", ray.get(ray.remote(lambda: 6).remote()), flush=True)
sys.exit(5)
"""
)


def test_a_run_dir_that_is_removed(jobs: Jobs, here: Path) -> None:
    (here / "removes.py").write_text(REMOVES)
    job = jobs.start("removes.py", ranks=2)
    assert job.wait(120) == 5, job.output()
    assert job.output().count("sum 6") == 2
    assert "outcome.json could not be written: No such file or directory" in job.output()
    assert "Traceback" not in job.output()
    assert not left(job)
    met(
        Cell(
            WORLDS,
            "run directory removed in mid-run",
            "the driver's; warns: 'outcome.json could not be written: No such…'",
        )
    )


# Limits.


@root
def test_a_small_dev_shm(jobs: Jobs, here: Path) -> None:
    job = world(jobs, "mount -t tmpfs -o size=64m tmpfs /dev/shm", "sum.py")
    worked(job, "WARNING: /dev/shm has 64 MiB free: Ray's object store goes to disk and will be slow")
    met(Cell(WORLDS, "/dev/shm of 64 MB", "0; warns: '/dev/shm has 64 MiB free: Ray's object store goes to disk'"))


@root
def test_a_dev_shm_that_is_large_enough_for_one_of_two_ranks(jobs: Jobs, here: Path) -> None:
    setting = 'mount -t tmpfs -o size=100m tmpfs /dev/shm; set -- "$(dirname "$1")/mpirun" -np 2 "$@"'
    worked(world(jobs, setting, "sum.py"), "WARNING: /dev/shm has ", "Ray's object store goes to disk")
    met(Cell(WORLDS, "/dev/shm of 100 MB, two ranks", "0; warns: 'Ray's object store goes to disk'"))


@pytest.mark.quick
def test_64_open_files(jobs: Jobs, here: Path) -> None:
    python = jobs.mpi.python
    job = jobs.start_raw("sh", "-c", 'ulimit -n 64; exec "$@"', "sh", python, "-m", "rayhpc.start", "ok.py")
    seconds = refused(job, 78, "only 64 open files are allowed, and Ray needs 256 at least", "ulimit -n 4096")
    met(Cell(WORLDS, "64 open files, hard", "78: 'only 64 open files are allowed, and Ray needs 256'", seconds, BOUND))


def test_64_open_files_until_asked(jobs: Jobs, here: Path) -> None:
    limits = "import resource\nlimits = lambda: resource.getrlimit(resource.RLIMIT_NOFILE)\n"
    (here / "limit.py").write_text(SUM + limits + "print(limits(), ray.get(ray.remote(limits).remote()))\n")
    python = jobs.mpi.python
    script = 'ulimit -Sn 64; ulimit -Hn 5000; exec "$@"'
    job = jobs.start_raw("sh", "-c", script, "sh", python, "-m", "rayhpc.start", "limit.py")
    worked(job, "(5000, 5000) (5000, 5000)")
    met(Cell(WORLDS, "64 open files, soft", "0, raised to the hard limit, also the driver's and the workers'"))


@pytest.mark.quick
def test_a_small_address_space(jobs: Jobs, here: Path) -> None:
    start = ["prlimit", f"--as={1200 << 20}", jobs.mpi.python, "-m", "rayhpc.start", "ok.py"]
    words = "only 1200 MiB of address space are allowed, and Ray needs 1580 at least"
    seconds = refused(jobs.start_raw(*start), 78, words, "ulimit -v unlimited")
    met(Cell(WORLDS, "ulimit -v of 1200 MiB", f"78: '{words}'", seconds, BOUND))


def test_an_address_space_that_is_large_enough(jobs: Jobs, here: Path) -> None:
    """The object store is made to fit: 30 % of the memory would not."""
    start = ["prlimit", f"--as={4500 << 20}", jobs.mpi.python, "-m", "rayhpc.start", "sum.py"]
    worked(jobs.start_raw(*start), "WARNING: only 4500 MiB of address space are allowed (ulimit -v 4608000)")
    met(Cell(WORLDS, "ulimit -v of 4500 MiB", "0; the object store is made to fit; warns: 'only 4500 MiB …'"))


# A cgroup whose pids.max is $1, with $2 sleeping processes and the command that follows.
CGROUP = """
cgroup=$(mktemp -d "$0/rayhpc-test-XXXXXX")
trap 'for pid in $(cat "$cgroup/cgroup.procs"); do kill -9 "$pid"; done; sleep 0.2; rmdir "$cgroup"' EXIT
echo "$1" >"$cgroup/pids.max"
(
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    for ((n = 0; n < $2; n++)); do sleep 100 & done
    exec "${@:3}"
)
"""


def in_cgroup(jobs: Jobs, limit: int, others: int, *words: str) -> Job:
    """One rank in a cgroup of its own, or skip where no cgroup can be made."""
    tops = [top for top in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if (top / "cgroup.procs").exists()]
    made = next((top for top in tops if can_limit_processes(top)), None)
    if made is None:
        skip("no cgroup with pids.max can be made here")
    start = [jobs.mpi.python, "-m", "rayhpc.start", *words]
    return jobs.start_raw("bash", "-c", CGROUP, str(made), str(limit), str(others), *start)


def can_limit_processes(top: Path) -> bool:
    probe = top / f"rayhpc-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return False
    able = os.access(probe / "pids.max", os.W_OK)
    probe.rmdir()
    return able


@pytest.mark.quick
def test_a_cgroup_of_80_processes(jobs: Jobs, here: Path) -> None:
    words = "only 80 processes are allowed, and Ray needs 256 at least"
    seconds = refused(in_cgroup(jobs, 80, 0, "ok.py"), 78, words, "the cgroup's pids.max: 80")
    met(Cell(WORLDS, "a cgroup's pids.max of 80", f"78: '{words}'", seconds, BOUND))


def test_a_cgroup_that_others_have_filled(jobs: Jobs, here: Path) -> None:
    """60 of 300 processes are left: too few for the raylet's threads."""
    job = in_cgroup(jobs, 300, 240, "ok.py")
    assert job.wait(60) == 78, job.output()
    for text in ("Ray lacks processes or threads", "the cgroup has refused processes or threads: its pids.max is 300"):
        assert text in job.output()
    assert "started again" not in job.output()
    assert "never" not in job.output()
    assert not left(job)
    met(Cell(WORLDS, "a cgroup with 60 of 300 processes left", "78: '… Ray lacks processes or threads'"))


@root
@pytest.mark.quick
def test_64_processes(jobs: Jobs, here: Path) -> None:
    job = world(jobs, f'ulimit -u 64; set -- {_STRANGER} "$@"', "ok.py")
    seconds = refused(
        job, 78, "only 64 processes are allowed, and Ray needs 256 at least", "threads count as processes"
    )
    met(Cell(WORLDS, "64 processes", "78: 'only 64 processes are allowed, and Ray needs 256'", seconds, BOUND))


@root
def test_a_user_without_home_and_name(jobs: Jobs, here: Path) -> None:
    """No HOME, no entry in the table of users, and 2000 processes, which are few but enough."""
    os.chown(here, 54321, 54321)
    job = world(jobs, f'unset HOME; ulimit -u 2000; set -- {_STRANGER} "$@"', "sum.py")
    worked(job, "WARNING: only 2000 processes are allowed (ulimit -Hu)")
    met(Cell(WORLDS, "no HOME, a user id without an account", "0"))
    met(Cell(WORLDS, "2000 processes", "0; warns: 'only 2000 processes are allowed (ulimit -Hu)'"))


# Names, addresses, clocks.


@root
def test_a_name_that_does_not_resolve(jobs_of: Jobs) -> None:
    directory = jobs_of.directory / "job"
    directory.mkdir()
    (directory / "sum.py").write_text(SUM)
    ranks = [*jobs_of.mpi.mpirun, "-np", "2", jobs_of.mpi.python, "-m", "rayhpc.start", "sum.py"]
    script = 'hostname no-such-host.example; exec "$@"'
    worked(jobs_of.start_raw("unshare", "-u", "sh", "-c", script, "sh", *ranks), "2/2 Ray nodes")
    met(Cell(WORLDS, f"host's name does not resolve; {jobs_of.mpi.name}", "0"))


LOOPBACK = "ip link set lo up"
IPV6 = f"{LOOPBACK}; ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up"


@root
def test_ipv6_only(jobs: Jobs, here: Path) -> None:
    setting = f"{IPV6}; ip -6 address add fd00::5/64 dev d0 nodad"
    worked(world(jobs, setting, "sum.py", unshare="-n"), "head [fd00::5]:")
    met(Cell(WORLDS, "IPv6 only", "0, 'head [fd00::5]:… up'"))


@root
def test_no_route(jobs: Jobs, here: Path) -> None:
    ranks = [*jobs.mpi.mpirun, "-np", "2", jobs.mpi.python, "-m", "rayhpc.start", "sum.py"]
    job = jobs.start_raw("unshare", "-n", "sh", "-c", f'{LOOPBACK}; exec "$@"', "sh", *ranks)
    worked(job, "head 127.0.0.1:", "2/2 Ray nodes")
    met(Cell(WORLDS, "no default route, no network but the loopback; MPICH", "0, 'head 127.0.0.1:… up'"))


@root
@pytest.mark.quick
def test_hosts_that_cannot_reach_each_other(jobs: Jobs, here: Path) -> None:
    """MPI finds the other rank (by the launcher's pipe and shared memory), TCP does not."""
    rank = [jobs.mpi.python, "-m", "rayhpc.start", "ok.py"]
    cut = ["unshare", "-n", "sh", "-c", f'{LOOPBACK}; exec "$@"', "sh", *rank]
    job = jobs.start_raw(*jobs.mpi.mpirun, "-np", "1", *rank, ":", "-np", "1", *cut)
    seconds = refused(job, 78, "cannot reach the head", "rank 1 on ", "Network is unreachable", "--interface")
    met(
        Cell(
            WORLDS,
            "two hosts that cannot reach each other",
            "78: 'rank 1 on … cannot reach the head …'",
            seconds,
            BOUND,
        )
    )


@pytest.mark.quick
def test_another_ray_on_one_rank(jobs: Jobs, here: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "shim" / "ray-2.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.0.0\n")
    job = jobs.start_split({"PYTHONPATH": str(metadata.parents[1])}, "ok.py", others=2)
    seconds = refused(job, 78, "versions differ on rank 2", "Ray 2.0.0")
    met(Cell(WORLDS, "another Ray on one rank", "78: 'versions differ on rank 2', with both", seconds, BOUND))


# The kernel has one clock for all: what a library says of it is shifted instead.
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static int (*kernels)(clockid_t, struct timespec *);
int clock_gettime(clockid_t id, struct timespec *t)
{
    if (!kernels) kernels = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = kernels(id, t);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += SHIFT;
    return result;
}
time_t time(time_t *out)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
int gettimeofday(struct timeval *tv, void *zone)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    tv->tv_sec = t.tv_sec;
    tv->tv_usec = t.tv_nsec / 1000;
    return 0;
}
"""


@pytest.mark.parametrize("shift", [600, -600], ids=["ahead", "behind"])
def test_clocks_ten_minutes_apart(jobs: Jobs, here: Path, tmp_path: Path, shift: int) -> None:
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    build = ["cc", "-shared", "-fPIC", f"-DSHIFT={shift}", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"]
    subprocess.run(build, check=True)
    job = jobs.start_split({"LD_PRELOAD": str(library)}, "--tls", "sum.py", others=1)
    worked(job, "2/2 Ray nodes")
    starts = {event["rank"]: event["at"] for event in job.events() if event["stage"] == "start"}
    assert abs(starts[1] - starts[0] - shift) < 120, "the clock was not shifted"
    met(Cell(WORLDS, f"a rank's clock 10 minutes {'ahead' if shift > 0 else 'behind'}, with --tls", "0"))
