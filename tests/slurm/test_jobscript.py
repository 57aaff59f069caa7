"""The shipped Slurm script, unedited, on four hosts with an address each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from .slurm_cluster import SlurmCluster, poll

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).resolve().parents[2] / "jobscripts" / "slurm.sbatch"
EXAMPLE = SCRIPT.parents[1] / "examples" / "train_ppo.py"
COUNT = """
import json, os, sys, ray
ray.init(log_to_driver=False)
nodes = [(node["NodeManagerHostname"], node["NodeManagerAddress"], node["Resources"]["CPU"]) for node in ray.nodes()]
print("NODES", json.dumps(sorted(nodes)), flush=True)
sys.exit(7)
"""
# The handler only notes: Ray's own shutdown in the middle of another one, which a second signal would begin, crashes.
WAIT = """
import ray, signal, sys, time
got = []
def note(signum, frame):
    got.append(signum)
    print("driver got", signum, flush=True)
ray.init(log_to_driver=False)
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGUSR1, note)
print("driver up", flush=True)
while not got:
    time.sleep(0.05)
sys.exit(9)
"""


def active(python: Path, **more: str) -> Mapping[str, str]:
    """The environment of a user whose virtual environment is active; root, whom Open MPI wants to be asked twice."""
    return {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **more,
    }


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


@pytest.fixture(params=["mpich", "openmpi"])
def python(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_python")
    return found


def nodes_of(output: str) -> list[tuple[str, str, float]]:
    (line,) = [line for line in output.splitlines() if line.startswith("NODES ")]
    return [tuple(entry) for entry in json.loads(line[6:])]


def test_four_hosts_and_the_exit_code(slurm_cluster: SlurmCluster, tmp_path: Path, python: Path) -> None:
    driver = write(tmp_path, "count.py", COUNT)
    job = slurm_cluster.sbatch(SCRIPT, driver, cwd=tmp_path, env=active(python))
    ended = job.wait(120)
    assert (ended.state, ended.exit_code) == ("FAILED", 7), ended.output
    nodes = nodes_of(ended.output)
    assert [name for name, _, _ in nodes] == list(slurm_cluster.nodes)
    assert len({address for _, address, _ in nodes}) == 4
    assert "srun --mpi=" in ended.output
    slurm_cluster.assert_nothing_left()


def test_two_ranks_on_each_host(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    driver = write(tmp_path, "count.py", COUNT)
    env = active(mpich_python, RAYHPC_RANKS_PER_HOST="2")
    ended = slurm_cluster.sbatch("-N2", SCRIPT, driver, cwd=tmp_path, env=env).wait(120)
    assert ended.exit_code == 7, ended.output
    assert [name for name, _, _ in nodes_of(ended.output)] == ["node1", "node1", "node2", "node2"]
    slurm_cluster.assert_nothing_left()


def test_through_mpiexec(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    driver = write(tmp_path, "count.py", COUNT)
    launch = f"{mpich_python.with_name('mpiexec')} -n 3 -ppn 1"
    env = active(mpich_python, RAYHPC_LAUNCH=launch)
    ended = slurm_cluster.sbatch("-N3", SCRIPT, driver, cwd=tmp_path, env=env).wait(120)
    assert ended.exit_code == 7, ended.output
    assert len(nodes_of(ended.output)) == 3
    slurm_cluster.assert_nothing_left()


def test_the_hosts_are_listed_for_other_launchers(
    slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path
) -> None:
    """Hydra cannot read every list that Slurm makes, and reads any that names each host."""
    driver = write(tmp_path, "hosts.py", 'import os; print("HOSTS", os.environ["SLURM_JOB_NODELIST"])')
    ended = slurm_cluster.sbatch("-N3", SCRIPT, driver, cwd=tmp_path, env=active(mpich_python)).wait(90)
    assert "HOSTS node1,node2,node3\n" in ended.output


def test_hosts_of_different_size(slurm_cluster: SlurmCluster, tmp_path: Path, python: Path) -> None:
    """Three tasks on two hosts: the job has two CPUs of one and one of the other, and Ray gets them."""
    driver = write(tmp_path, "count.py", COUNT)
    flags = ("-N2", "-n3")
    job = slurm_cluster.sbatch(*flags, as_asked(tmp_path), driver, cwd=tmp_path, env=active(python))
    ended = job.wait(120)
    assert ended.exit_code == 7, ended.output
    assert [(name, cpus) for name, _, cpus in nodes_of(ended.output)] == [("node1", 2.0), ("node2", 1.0)]


def as_asked(directory: Path, settings: str = "") -> Path:
    """A copy of the script that leaves it to sbatch's flags how much of each host it wants."""
    text = SCRIPT.read_text().replace("#SBATCH --exclusive\n", "").replace("# rayhpc: settings", settings)
    return write(directory, "own.sbatch", text)


def test_numa_domains_are_counted_on_each_host(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """A stand-in for lscpu has two on the first host and one on the second."""
    (tmp_path / "bin").mkdir()
    lscpu = write(tmp_path / "bin", "lscpu", '#!/bin/sh\necho "# Node"; echo 0; [ "$(hostname)" != node1 ] || echo 1\n')
    lscpu.chmod(0o755)
    driver = write(tmp_path, "count.py", COUNT)
    env = active(mpich_python, RAYHPC_RANKS_PER_HOST="numa")
    env = {**env, "PATH": f"{tmp_path / 'bin'}:{env['PATH']}"}
    ended = slurm_cluster.sbatch("-N2", SCRIPT, driver, cwd=tmp_path, env=env).wait(120)
    assert ended.exit_code == 7, ended.output
    assert [name for name, _, _ in nodes_of(ended.output)] == ["node1", "node1", "node2"]


@pytest.mark.parametrize("export", ["NONE", "PATH,COLOUR"])
def test_what_the_script_sets_reaches_the_ranks(
    slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path, export: str
) -> None:
    """With any --export but ALL srun drops what was set after sbatch."""
    settings = f"export RAYHPC_RUN_DIR={tmp_path}/own RAYHPC_VENV={mpich_python.parents[1]} COLOUR=blue"
    driver = write(tmp_path, "colour.py", 'import os; print("COLOUR", os.environ["COLOUR"])')
    flags = ("-N2", f"--export={export}")
    job = slurm_cluster.sbatch(*flags, as_asked(tmp_path, settings), driver, cwd=tmp_path, env={"COLOUR": "red"})
    ended = job.wait(90)
    assert ended.exit_code == 0, ended.output
    assert "COLOUR blue" in ended.output
    assert list((tmp_path / "own").glob("20*"))


def test_memory_that_salloc_left(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    env = active(mpich_python, SLURM_MEM_PER_CPU="100")
    job = slurm_cluster.sbatch("-N2", "--mem=2000", SCRIPT, "/bin/true", cwd=tmp_path, env=env)
    ended = job.wait(90)
    assert ended.exit_code == 0, ended.output
    assert "the job's own is kept: SLURM_MEM_PER_NODE" in ended.output


def test_a_heterogeneous_job_is_refused(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    job = slurm_cluster.sbatch("-N1", ":", "-N2", SCRIPT, "/bin/true", cwd=tmp_path, env=active(mpich_python))
    ended = job.wait(90)
    assert (ended.exit_code, ended.output.count("a heterogeneous job")) == (78, 1), ended.output


def test_hosts_without_a_rank_are_named(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """A rank that nobody launched, in a job of three hosts."""
    command = f"{mpich_python} -m rayhpc.start /bin/true"
    ended = slurm_cluster.sbatch("-N3", "--wrap", command, cwd=tmp_path, env=active(mpich_python)).wait(90)
    assert ended.exit_code == 0, ended.output
    assert "2 of the job's 3 hosts are not used: node2, node3; start a rank on each of them: srun" in ended.output


# Waits until Ray knows that a node is dead.
OUTLIVES = """
import ray, sys, time
ray.init(log_to_driver=False)
print("driver up", flush=True)
while sum(node["Alive"] for node in ray.nodes()) > 2:
    time.sleep(0.2)
print("sum", ray.get(ray.remote(lambda: 6).remote()), flush=True)
sys.exit(9)
"""


def test_a_run_outlives_a_host(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """Where both Slurm and srun are told to go on. MPICH's end by MPI_Abort may hide the code from srun."""
    driver = write(tmp_path, "outlives.py", OUTLIVES)
    env = active(mpich_python, RAYHPC_ON_HOST_LOSS="continue")
    flags = ("-N3", "--no-kill", "--no-requeue")
    job = slurm_cluster.sbatch(*flags, SCRIPT, driver, cwd=tmp_path, env=env)
    job.wait_output("driver up", 90)
    slurm_cluster.kill("node3")
    job.wait_output("sum 6", 60)
    ended = job.wait(60)
    outcome = json.loads(next((tmp_path / "rayhpc-runs").glob("20*/outcome.json")).read_text())
    assert outcome["code"] == 9, ended.output
    assert "LOST rank 2 on node3" in ended.output


def test_the_wrong_mpi_is_refused(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    env = active(mpich_python, RAYHPC_LAUNCH="srun --mpi=none --ntasks=2")
    ended = slurm_cluster.sbatch("-N2", SCRIPT, "/bin/true", cwd=tmp_path, env=env).wait(60)
    assert ended.exit_code == 78, ended.output
    assert ended.output.count("srun --mpi=pmi2") == 1


def test_hostile_arguments(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    driver = write(tmp_path, "it's a driver.py", "import json, sys; print('ARGV', json.dumps(sys.argv[1:]))")
    hostile = ["a'; echo foo", "two words", "$HOME", "`id`", '"', "größe", "*", "--mpi=none", "-N9", ""]
    ended = slurm_cluster.sbatch("-N1", SCRIPT, driver, *hostile, cwd=tmp_path, env=active(mpich_python)).wait(60)
    assert ended.exit_code == 0, ended.output
    assert f"ARGV {json.dumps(hostile)}" in ended.output


def test_no_environment(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """Without rayhpc the script ends with one sentence, before anything is launched."""
    bare = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    ended = slurm_cluster.sbatch("-N1", SCRIPT, cwd=tmp_path, env=bare).wait(60)
    assert ended.exit_code == 78, ended.output
    assert "next: " in ended.output


# Memory as a long start leaves it: MPICH publishes what lies behind its address (see rayhpc.ranks.mpi.network).
UNTIDY = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if "SLURM_PROCID" in os.environ:
    blocks = [(libc.malloc(size), size) for size in (64, 200, 300, 500, 1000, 4096, 6000) * 5000]
    for address, size in blocks:
        ctypes.memmove(address, os.urandom(size), size)
    for address, _ in blocks[::2]:
        libc.free(address)
"""


def test_ranks_meet_whatever_is_in_memory(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """Under srun --mpi=pmi2: the driver that is not there is the first thing that all ranks agree on."""
    write(tmp_path, "sitecustomize.py", UNTIDY)
    env = active(mpich_python, PYTHONPATH=str(tmp_path))
    ended = slurm_cluster.sbatch("-N2", SCRIPT, "absent.py", cwd=tmp_path, env=env).wait(60)
    assert ended.exit_code == 127, ended.output
    assert ended.output.count("the driver absent.py was not found") == 1


# Rank 1 needs a while to end: an interpreter on a busy host, or on a slow file system.
SLOW_END = """
import atexit, os, time
if os.environ.get("SLURM_PROCID") == "1":
    atexit.register(time.sleep, 3)
"""


def test_a_rank_that_ends_slowly_does_not_change_the_code(
    slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path
) -> None:
    """srun --kill-on-bad-exit signals it when rank 0 has ended with the job's code."""
    write(tmp_path, "sitecustomize.py", SLOW_END)
    env = active(mpich_python, PYTHONPATH=str(tmp_path))
    ended = slurm_cluster.sbatch("-N2", SCRIPT, "absent.py", cwd=tmp_path, env=env).wait(60)
    assert ended.exit_code == 127, ended.output


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_scancel_leaves_nothing(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path, launcher: str) -> None:
    driver = write(tmp_path, "wait.py", WAIT)
    env = active(mpich_python)
    if launcher == "mpiexec":
        env = active(mpich_python, RAYHPC_LAUNCH=f"{mpich_python.with_name('mpiexec')} -n 4 -ppn 1")
    job = slurm_cluster.sbatch(SCRIPT, driver, cwd=tmp_path, env=env)
    job.wait_output("driver up", 90)
    job.cancel()
    slurm_cluster.assert_nothing_left(10)
    assert job.wait(30).state == "CANCELLED"
    if launcher == "srun":  # proctrack/linuxproc signals every process of the step, the driver included
        assert "driver got 15" in job.output, job.output


def test_two_jobs_share_hosts(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """Neither notices the other, and one goes on when the other has ended."""
    wait, count = write(tmp_path, "wait.py", WAIT), write(tmp_path, "count.py", COUNT)
    flags = ("-N2", "--partition=shared", "--oversubscribe", "--cpus-per-task=1")
    first = slurm_cluster.sbatch(*flags, "--nodelist=node1,node2", SCRIPT, wait, cwd=tmp_path, env=active(mpich_python))
    first.wait_output("driver up", 90)
    second = slurm_cluster.sbatch(
        *flags, "--nodelist=node1,node2", SCRIPT, count, cwd=tmp_path, env=active(mpich_python)
    )
    ended = second.wait(90)
    assert ended.exit_code == 7, ended.output
    assert [cpus for _, _, cpus in nodes_of(ended.output)] == [1.0, 1.0]  # what was asked for, though nothing binds it
    assert first.state == "RUNNING"
    first.cancel("--signal=USR1", "--batch")
    assert first.wait(60).exit_code == 9, first.output
    slurm_cluster.assert_nothing_left()


def until_quiet(cluster: SlurmCluster) -> None:
    """Wait until no process of a job is left on any host; torch leaves a directory in /tmp, which is the driver's."""

    def quiet() -> bool | None:
        return None if any(cluster.processes(node) for node in cluster.nodes) else True

    poll(quiet, 30, lambda: f"quiet hosts, found {cluster.leftovers()}")


@pytest.mark.timeout(600)
def test_walltime_checkpoint_requeue_resume(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """A walltime that is too short: signalled, checkpoint, requeued by the script, resumed, done at the right count."""
    output = tmp_path / "ppo"
    arguments = [
        "--stop-iterations",
        "24",  # more than one job has time for, on a fast machine too
        "--stop-return",
        "1e9",
        "--resume",
        "--train-batch-size",
        "8000",
        "--output",
        str(output),
    ]
    env = active(mpich_python, RAYHPC_GRACE="70")
    job = slurm_cluster.sbatch("-N2", "-t", "2", SCRIPT, EXAMPLE, *arguments, cwd=tmp_path, env=env)
    job.wait_state("RUNNING", timeout=60)
    while job.wait_state("PENDING", "COMPLETED", "FAILED", timeout=150) == "PENDING":
        # Slurm holds a requeued job for two minutes unless told; that long its daemons may still be at the last life.
        until_quiet(slurm_cluster)
        job.start_now()
        job.wait_state("RUNNING", "COMPLETED", "FAILED", timeout=60)
    ended = job.wait(30)
    assert ended.state == "COMPLETED", ended.output
    assert ended.output.count("the driver asks to be run again") == ended.output.count("requeueing job") >= 1
    assert json.loads((output / "result.json").read_text())["iterations"] == 24
    rows = (output / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, 25))
    until_quiet(slurm_cluster)


# Prints what RAYHPC_DEADLINE_FILE says whenever that is new, and when it is signalled.
FOLLOWS_ITS_END = """
import os, signal, sys, time
signalled = []
signal.signal(signal.SIGUSR1, lambda *_: signalled.append(time.time()))
file, known = os.environ["RAYHPC_DEADLINE_FILE"], None
while not signalled:
    end = float(open(file).read())
    if end != known:
        known = end
        print("driver knows", end - float(os.environ["RAYHPC_DEADLINE"]), flush=True)
    time.sleep(0.05)
print(f"signalled {known - signalled[0]:.0f} s before", flush=True)
sys.exit(9)
"""


def test_an_extended_job_goes_on(slurm_cluster: SlurmCluster, tmp_path: Path, mpich_python: Path) -> None:
    """A minute is added before the grace begins: the driver is told, and signalled a minute later."""
    driver = write(tmp_path, "follows.py", FOLLOWS_ITS_END)
    env = active(mpich_python, RAYHPC_GRACE="30")
    job = slurm_cluster.sbatch("-N1", "-t", "1", SCRIPT, driver, cwd=tmp_path, env=env)
    job.wait_output("driver knows 0.0", 60)
    slurm_cluster.sh("ctl", "scontrol", "update", f"jobid={job.number}", "TimeLimit=2")
    job.wait_output("the end of the job has moved: ", 30)
    job.wait_output("driver knows 60.0", 5)
    ended = job.wait(100)
    assert ended.exit_code == 9, ended.output
    assert "signalled 30 s before" in ended.output or "signalled 29 s before" in ended.output, ended.output
    slurm_cluster.assert_nothing_left()
