"""The virtual hosts themselves: what they share and do not share, jobs, MPI, faults, and that nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import skip

from .slurm_cluster import SECOND_ACCOUNT, HarnessError, Process, SlurmCluster, poll, virtual_cluster

pytestmark = pytest.mark.slurm

RANKS = """
import socket
from mpi4py import MPI
hosts = MPI.COMM_WORLD.allgather(socket.gethostname())
if MPI.COMM_WORLD.rank == 0:
    print(MPI.COMM_WORLD.size, *sorted(hosts))
"""
FOUR_RANKS = "4 node1 node2 node3 node4\n"
# open-mpi/ompi#12495: under srun, 2 % of starts on a busy machine; a message that arrives before the end of MPI_Init.
KNOWN_CRASH = "mca_pml_ob1_recv_frag_callback_match"
# Open MPI refuses to start as root without both.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    """A program in which every rank says where it is."""
    program = tmp_path / "ranks.py"
    program.write_text(RANKS)
    return program


def connects(cluster: SlurmCluster, start: str, address: str, port: int = 6818) -> bool:
    """Whether a host reaches the slurmd (or what has `port`) of another one within a second."""
    attempt = ("timeout", "1", "bash", "-c", f"</dev/tcp/{address}/{port}")
    return cluster.sh(start, *attempt, check=False).returncode == 0


# ----------------------------------------------------------------------------------------------------------- hosts


def test_every_host_has_a_name_and_an_address(slurm_cluster: SlurmCluster) -> None:
    said = slurm_cluster.sh("ctl", "srun", "-N4", "bash", "-c", "echo $(hostname) $(hostname -I)").stdout
    assert sorted(said.splitlines()) == [f"node{number} 10.231.0.{10 + number}" for number in range(1, 5)]
    assert connects(slurm_cluster, "node1", "10.231.0.14")


@pytest.mark.parametrize("directory", ["/tmp", "/var/tmp", "/dev/shm"])
def test_local_directories_are_private(slurm_cluster: SlurmCluster, directory: str) -> None:
    slurm_cluster.sh("node1", "touch", f"{directory}/here")
    assert slurm_cluster.files("node1") == [f"{directory}/here"]
    assert slurm_cluster.files("node2") == []
    assert not Path(directory, "here").exists()


def test_the_working_directory_is_shared(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    slurm_cluster.sh("node1", "touch", "written", cwd=tmp_path)
    assert slurm_cluster.sh("node2", "ls", cwd=tmp_path).stdout == "written\n"


def test_the_outside_is_unreachable_and_says_so(slurm_cluster: SlurmCluster) -> None:
    refused = slurm_cluster.sh("node1", "bash", "-c", "</dev/tcp/192.0.2.1/80", timeout=5, check=False)
    assert "No route to host" in refused.stderr


def test_an_exit_code_comes_back(slurm_cluster: SlurmCluster) -> None:
    assert slurm_cluster.sh("node1", "bash", "-c", "exit 42", check=False).returncode == 42


def test_a_failing_command_is_shown_with_its_output(slurm_cluster: SlurmCluster) -> None:
    with pytest.raises(HarnessError, match=r"(?s)exit code 3.*node2.*seen so far"):
        slurm_cluster.sh("node2", "bash", "-c", "echo seen so far; exit 3")


def test_a_time_out_ends_the_command_on_its_host(slurm_cluster: SlurmCluster) -> None:
    with pytest.raises(HarnessError, match=r"(?s)no end within 0.5 s.*sleep 77"):
        slurm_cluster.sh("node1", "sleep", "77", timeout=0.5)
    slurm_cluster.assert_nothing_left()


# ------------------------------------------------------------------------------------------------------------ jobs


def test_a_job_fails_with_its_own_exit_code(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    ended = slurm_cluster.sbatch("-N2", "--wrap", "echo said; exit 42", cwd=tmp_path).wait()
    assert (ended.state, ended.exit_code, ended.signal, ended.output) == ("FAILED", 42, 0, "said\n")


def test_a_job_can_be_cancelled(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    job = slurm_cluster.sbatch("-N4", "--wrap", "srun bash -c 'echo up; sleep 77'", cwd=tmp_path)
    job.wait_output("up", times=4)
    job.cancel()
    assert job.wait().state == "CANCELLED"
    slurm_cluster.assert_nothing_left()


def test_a_requeued_job_starts_again(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    script = 'echo run $SLURM_RESTART_COUNT; test -n "$SLURM_RESTART_COUNT" || sleep 77'
    job = slurm_cluster.sbatch("--requeue", "--open-mode=append", "--wrap", script, cwd=tmp_path)
    job.wait_output("run")
    job.requeue()
    assert "run 1\n" in job.wait().output


def test_whole_nodes_can_be_oversubscribed(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    jobs = [slurm_cluster.sbatch("-pshared", "-N4", "-n16", "--wrap", "sleep 77", cwd=tmp_path) for _ in range(2)]
    for job in jobs:
        job.wait_state("RUNNING")


def test_a_second_account_runs_jobs(slurm_cluster: SlurmCluster) -> None:
    home = slurm_cluster.second_home
    job = slurm_cluster.sbatch("-N2", "--wrap", "srun bash -c 'id -un; pwd'", cwd=home, user=SECOND_ACCOUNT)
    assert sorted(job.wait().output.split()) == sorted([SECOND_ACCOUNT, str(home)] * 2)


# ------------------------------------------------------------------------------------------------------------- MPI


def test_mpich_under_srun(slurm_cluster: SlurmCluster, mpich_python: Path, ranks: Path) -> None:
    assert slurm_cluster.sh("ctl", "srun", "-N4", "--mpi=pmi2", mpich_python, ranks).stdout == FOUR_RANKS


def test_mpich_under_mpiexec_in_a_job(slurm_cluster: SlurmCluster, mpich_python: Path, ranks: Path) -> None:
    command = f"{mpich_python.with_name('mpiexec')} -n 4 {mpich_python} {ranks}"
    ended = slurm_cluster.sbatch("-N4", "--ntasks-per-node=1", "--wrap", command, cwd=ranks.parent).wait()
    assert (ended.exit_code, ended.output) == (0, FOUR_RANKS)


def test_open_mpi_under_srun(slurm_cluster: SlurmCluster, openmpi_python: Path, ranks: Path) -> None:
    for _ in range(3):
        ended = slurm_cluster.sh("ctl", "srun", "-N4", "--mpi=pmix", openmpi_python, ranks, check=False)
        if KNOWN_CRASH not in ended.stderr:
            break
    assert (ended.returncode, ended.stdout) == (0, FOUR_RANKS), ended.stderr


def test_open_mpi_under_mpiexec_in_a_job(slurm_cluster: SlurmCluster, openmpi_python: Path, ranks: Path) -> None:
    command = f"{openmpi_python.with_name('mpiexec')} -n 4 {openmpi_python} {ranks}"
    options = ("-N4", "--ntasks-per-node=1", "--wrap", command)
    ended = slurm_cluster.sbatch(*options, cwd=ranks.parent, env=AS_ROOT).wait()
    assert (ended.exit_code, ended.output) == (0, FOUR_RANKS)


def test_srun_without_mpi_gives_four_worlds_of_one_rank(
    slurm_cluster: SlurmCluster, mpich_python: Path, ranks: Path
) -> None:
    """Not our wish but Slurm's behaviour, with exit code 0: what a bootstrapper has to notice by itself."""
    said = slurm_cluster.sh("ctl", "srun", "-N4", mpich_python, ranks).stdout
    assert sorted(said.splitlines()) == [f"1 node{number}" for number in range(1, 5)]


# ---------------------------------------------------------------------------------------------------------- faults


def test_a_dead_host_fails_its_job_and_comes_back(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    job = slurm_cluster.sbatch("-N4", "--wrap", "srun bash -c 'echo up; sleep 77'", cwd=tmp_path)
    job.wait_output("up", times=4)
    slurm_cluster.kill("node3")
    with pytest.raises(HarnessError, match="node3 is not running"):
        slurm_cluster.sh("node3", "true")
    assert job.wait().state == "NODE_FAIL"
    slurm_cluster.boot("node3")
    assert slurm_cluster.sh("node3", "hostname").stdout == "node3\n"
    slurm_cluster.make_whole()
    assert len(set(slurm_cluster.sh("ctl", "srun", "-N4", "hostname").stdout.split())) == 4


def test_a_dead_host_forgets_its_files(slurm_cluster: SlurmCluster) -> None:
    slurm_cluster.sh("node1", "touch", "/tmp/a", "/dev/shm/b")
    slurm_cluster.kill("node1")
    assert not slurm_cluster.alive("node1")
    slurm_cluster.boot("node1")
    assert slurm_cluster.leftovers() == {}


def test_the_controller_can_be_power_cycled(slurm_cluster: SlurmCluster) -> None:
    with virtual_cluster(1, Path(f"{slurm_cluster.state}-second"), slurm_cluster.shared) as small:
        small.kill("ctl")
        assert not connects(small, "node1", "10.231.0.1", port=6817)
        small.boot("ctl")
        assert connects(small, "node1", "10.231.0.1", port=6817)
        small.sh("ctl", "sinfo")


def test_a_cut_host_is_out_of_reach_until_healed(slurm_cluster: SlurmCluster) -> None:
    slurm_cluster.cut("node2")
    assert not connects(slurm_cluster, "node1", "10.231.0.12")
    assert slurm_cluster.sh("node2", "hostname").stdout == "node2\n"
    slurm_cluster.heal("node2")
    assert connects(slurm_cluster, "node1", "10.231.0.12")


# ------------------------------------------------------------------------------------------------- what is left


def test_what_a_test_leaves_behind_is_seen_and_then_removed(slurm_cluster: SlurmCluster) -> None:
    slurm_cluster.sh("node4", "bash", "-c", "touch /tmp/stale; setsid sleep 77 >/dev/null 2>&1 &")
    (process,) = slurm_cluster.processes("node4")
    assert process == Process(process.pid, ("sleep", "77"))
    assert slurm_cluster.leftovers() == {"node4": [f"process {process.pid}: sleep 77", "/tmp/stale"]}
    with pytest.raises(HarnessError, match="/tmp/stale"):
        slurm_cluster.assert_nothing_left(timeout=0.1)
    slurm_cluster.make_whole()
    assert slurm_cluster.leftovers() == {}


def test_two_clusters_live_side_by_side(slurm_cluster: SlurmCluster) -> None:
    settings = {"VH_NETWORKS": "eth0=10.232.0 hsn0=10.233.0", "VH_GPUS": "2", "VH_SLURM_CONF": "KillWait=33"}
    state = Path(f"{slurm_cluster.state}-second")
    with virtual_cluster(2, state, slurm_cluster.shared, settings) as second:
        gpus = second.sh("ctl", "srun", "-N2", "--gres=gpu:2", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES").stdout
        assert gpus == "0,1\n" * 2
        assert "10.232.0.12 10.233.0.12" in second.sh("node2", "hostname", "-I").stdout
        assert "KillWait                = 33 sec" in second.sh("ctl", "scontrol", "show", "config").stdout
        assert not connects(second, "node1", "10.231.0.11")
        second.cut("node2", "hsn0")
        assert not connects(second, "node1", "10.233.0.12")
        assert connects(second, "node1", "10.232.0.12")
    assert not state.exists()
    assert slurm_cluster.sh("ctl", "srun", "-N4", "true").returncode == 0


def test_nothing_survives_the_sudden_death_of_the_owner(slurm_cluster: SlurmCluster) -> None:
    state = Path(f"{slurm_cluster.state}-orphan")
    program = (
        "import os, pathlib, signal; from slurm.slurm_cluster import virtual_cluster\n"
        f"with virtual_cluster(1, pathlib.Path({str(state)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    died = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=False)
    assert died.returncode == -9
    poll(lambda: None if state.exists() else True, 20, lambda: f"{state} is still there")


def test_a_skip_can_be_made_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="a reason"):
        skip("a reason")
    monkeypatch.delenv("RAYHPC_REQUIRE_ALL")
    with pytest.raises(pytest.skip.Exception, match="a reason"):
        skip("a reason")
