"""Other people's shell code in the shipped scripts: environments of every kind, modules, what they may not see."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

JOBSCRIPTS = Path(__file__).parents[3] / "jobscripts"
SCRIPTS = ("slurm.sbatch", "pbs.pbs", "theta.pbs", "sge.sh", "lsf.lsf", "flux.sh")
# Flux as the initial program of job 106 sees it: an instance of two hosts with four GPUs on each, and its parent.
FLUX = """case "$*" in
    "getattr jobid") echo f2q ;;
    "job id --to=dec f2q") echo 106 ;;
    "job id --to=dec f2r") echo 107 ;;
    "resource list -n -o {nnodes}") echo 2 ;;
    "--parent job info 106 jobspec") echo '{"attributes": {"system": {"environment": {"A": "1"}}, "x": "é"}}' ;;
    "--parent job submit") cat >submitted; echo f2r ;;
    "run "*"/bin/sh -c"*) printf '1 4\\n0 4\\n' ;;
    "run "*) echo "flux $*" ;;
    *) echo "flux: $*: unknown" >&2; exit 1 ;;
esac"""
# Stand for the commands of a cluster of one host, and for an environment's Python: the driver's arguments are printed.
COMMANDS = {
    "python": '[ "$1" = -c ] && exit; printf "%s\\n" "PREFIX=${CONDA_PREFIX:-} HOOK=${HOOK:-}" "$@"',
    "mpiexec": 'echo "HYDRA build details"',
    "srun": 'echo "MPI plugin types are none"',
    "scontrol": "echo here",
    "flux": FLUX,
    "ends": 'echo "RESTARTS $RAYHPC_RESTARTS"; exit "$CODE"',
}
JOB = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here", "SLURM_JOB_CPUS_PER_NODE": "2",
    "SLURM_CPUS_ON_NODE": "2",
    "PBS_JOBID": "7.server", "JOB_ID": "7", "LSB_JOBID": "7", "LSB_MCPU_HOSTS": "here 2", "RAYHPC_LAUNCH": "env",
}  # fmt: skip


# Stands for Hydra: runs a shell once for each host; else prints how many ranks on which hosts, and starts a proxy by
# its remote shell.
MPIEXEC = """[ "$1" = --version ] && { echo "HYDRA build details"; exit; }
rank=0
case "$*" in *"/bin/sh -c"*)
    for last; do :; done
    for host in $(cat "$2"); do PMI_RANK=$rank /bin/sh -c "$last"; rank=$((rank + 1)); done
    exit ;;
esac
echo "$3 $4 $5 $6 hosts $(echo $(cat "$2"))"
"$HYDRA_LAUNCHER_EXEC" n2 proxy --port 7
"""


def executable(file: Path, body: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A directory with bin/python and nothing else; its name has a space."""
    for name in ("python", "mpiexec"):
        executable(tmp_path / "my env/bin" / name, COMMANDS[name])
    return tmp_path / "my env"


def run(tmp_path: Path, script: str, settings: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """A script with lines of the site in it, given a driver and two arguments."""
    for name in ("srun", "scontrol", "flux", "ends"):
        executable(tmp_path / "commands" / name, COMMANDS[name])
    copy = tmp_path / script
    executable(copy, "")
    copy.write_text((JOBSCRIPTS / script).read_text().replace("# rayhpc: settings", settings))
    path = f"{tmp_path / 'commands'}:/usr/bin:/bin"
    return subprocess.run(
        [copy, "t.py", "--lr", "two words"], env={"PATH": path, **JOB, **environ}, cwd=tmp_path, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the environment's Python printed: its variables, then the words that it was given."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-6:]


GIVEN = ["-m", "rayhpc.start", "t.py", "--lr", "two words"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_plain_prefix(tmp_path: Path, prefix: Path, script: str) -> None:
    assert ran(run(tmp_path, script, RAYHPC_VENV=str(prefix))) == ["PREFIX= HOOK=", *GIVEN]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_conda_environment_with_hooks(tmp_path: Path, prefix: Path, script: str) -> None:
    """conda runs each hook and does not look at its status; many use variables that may be unset."""
    (prefix / "conda-meta").mkdir()
    hooks = prefix / "etc/conda/activate.d"
    executable(hooks / "a.sh", 'export HOOK="$# $UNSET_BY_THE_USER"; false')
    assert ran(run(tmp_path, script, RAYHPC_VENV=str(prefix))) == [f"PREFIX={prefix} HOOK=0 ", *GIVEN]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_activate_that_reads_its_arguments(tmp_path: Path, prefix: Path, script: str) -> None:
    """As conda's own: it would take the driver for an environment."""
    activate = '[ $# -eq 0 ] || { echo "EnvironmentNameNotFound: $1" >&2; return 1; }\n'
    (prefix / "bin/activate").write_text(f'{activate}export HOOK="$UNSET" PATH="{prefix}/bin:$PATH"\n')
    assert ran(run(tmp_path, script, RAYHPC_VENV=str(prefix))) == ["PREFIX= HOOK=", *GIVEN]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_activate_that_fails_is_quoted(tmp_path: Path, prefix: Path, script: str) -> None:
    (prefix / "bin/activate").write_text('echo "licence server is down" >&2\nreturn 3\n')
    done = run(tmp_path, script, RAYHPC_VENV=str(prefix))
    assert done.returncode == 78
    assert f"rayhpc: {prefix} cannot be activated: licence server is down" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_environment_that_is_not_there(tmp_path: Path, script: str) -> None:
    done = run(tmp_path, script, RAYHPC_VENV="/nowhere")
    assert done.returncode == 78
    assert "rayhpc: there is no Python environment /nowhere" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_lines_of_the_site(tmp_path: Path, prefix: Path, script: str) -> None:
    lines = f'module() {{ export HOOK="$1$UNSET"; }}\nmodule load\nexport RAYHPC_VENV="{prefix}"\nunset SITE_DEFAULT'
    (tmp_path / "profile").write_text("[ $# -eq 0 ] || exit 5\n")
    assert ran(run(tmp_path, script, f"{lines}\n. ./profile")) == ["PREFIX= HOOK=load", *GIVEN]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_line_of_the_site_that_fails_is_named(tmp_path: Path, prefix: Path, script: str) -> None:
    lines = "module() { echo 'Unable to locate a modulefile for python/9' >&2; return 1; }\nmodule load python/9"
    done = run(tmp_path, script, lines, RAYHPC_VENV=str(prefix))
    assert done.returncode == 78
    assert "Unable to locate a modulefile" in done.stderr
    assert "rayhpc: a line of the site has failed: module load python/9" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_temporary_directory_that_is_not_there(tmp_path: Path, prefix: Path, script: str) -> None:
    done = run(tmp_path, script, RAYHPC_VENV=str(prefix), TMPDIR="/nowhere")
    assert ran(done)[1:] == GIVEN
    assert "TMPDIR=/nowhere is not on this host: /tmp is used" in done.stderr


def function(script: str, name: str) -> str:
    """The text of a function."""
    found = re.search(rf"^{name}\(\) \{{.*?^\}}", (JOBSCRIPTS / script).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{script} has no function {name}"
    return found[0]


@pytest.mark.parametrize("name", ["fail", "activate"])
def test_all_scripts_do_it_alike(name: str) -> None:
    assert len({function(script, name) for script in SCRIPTS}) == 1


THROUGH_MPIEXEC = ("pbs.pbs", "theta.pbs", "sge.sh", "lsf.lsf")


@pytest.mark.parametrize(
    ("name", "scripts"),
    [
        ("count_ranks", (*THROUGH_MPIEXEC, "flux.sh")),
        ("through_mpiexec", THROUGH_MPIEXEC),
        ("end_remote_shells", THROUGH_MPIEXEC),
    ],
)
def test_these_scripts_do_it_alike(name: str, scripts: tuple[str, ...]) -> None:
    assert len({function(script, name) for script in scripts}) == 1


def test_the_two_scripts_of_pbs_submit_again_alike() -> None:
    again = [function("pbs.pbs", "submit_again"), function("theta.pbs", "submit_again_to_pbs")]
    assert again[0] == again[1].replace("submit_again_to_pbs", "submit_again")


@pytest.mark.parametrize("script", ["sge.sh", "lsf.lsf"])
def test_the_scheduler_gets_its_own_code_for_one_more_life(tmp_path: Path, prefix: Path, script: str) -> None:
    """75 becomes 99, so often as is allowed; a driver's own 99 would be taken for it."""

    def ended(code: str, restarted: str) -> subprocess.CompletedProcess[str]:
        told = {"CODE": code, "RESTARTED": restarted, "RAYHPC_MAX_RESTARTS": "2"}
        return run(tmp_path, script, RAYHPC_VENV=str(prefix), RAYHPC_LAUNCH="ends", **told)

    said = [ended("75", restarted) for restarted in ("0", "1", "1")]
    assert [done.returncode for done in said] == [99, 99, 75]
    assert [done.stdout.strip() for done in said] == ["RESTARTS 0", "RESTARTS 1", "RESTARTS 2"]
    assert "2 restarts are all that RAYHPC_MAX_RESTARTS allows" in said[-1].stderr
    assert not list(tmp_path.glob(".rayhpc-restarts-*"))
    done = ended("99", "0")
    assert (done.returncode, "passed on as 1" in done.stderr) == (1, True)
    assert ended("7", "0").returncode == 7


# A driver that answers TERM by 75; the scheduler's signal comes when it is up.
SAVES = """#!/bin/sh
trap 'echo got TERM; exit 75' TERM
kill -%s "$PPID"
kill -%s $$
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("script", "signals"),
    [("sge.sh", ["USR2"]), ("lsf.lsf", ["INT", "USR2", "TERM"]), ("flux.sh", ["HUP", "ALRM", "TERM"])],
)
def test_what_the_scheduler_ends_does_not_go_on(tmp_path: Path, prefix: Path, script: str, signals: list[str]) -> None:
    """qdel, bkill and the run limit signal every process of the job: the driver gets TERM, and 75 is no next life."""
    for name in signals:
        executable(tmp_path / "saves", SAVES % (name, "CONT" if script == "flux.sh" else "USR2"))
        done = run(tmp_path, script, RAYHPC_VENV=str(prefix), RAYHPC_LAUNCH=str(tmp_path / "saves"))
        assert (done.returncode, "got TERM" in done.stdout) == (75, True), done.stderr
        assert "itself is ending job " in done.stderr
        assert not list(tmp_path.glob(".rayhpc-restarts-*"))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_signal_at_the_launch_does_not_end_the_script(tmp_path: Path, prefix: Path, script: str, signal: str) -> None:
    """It comes when the launcher has been started and its process id is not yet known. TERM ends the launcher too."""
    executable(tmp_path / "waits", "[ $SIGNAL = USR1 ] || exec sleep 60\nexit 7")
    lines = f'trap \'[ "$BASH_COMMAND" != "job=\\$!" ] || kill -{signal} $$\' DEBUG'
    told = {"RAYHPC_VENV": str(prefix), "RAYHPC_LAUNCH": str(tmp_path / "waits"), "SIGNAL": signal}
    done = run(tmp_path, script, lines, **told)
    assert done.returncode == {"USR1": 7, "TERM": 128 + 15}[signal], done.stderr


@pytest.mark.parametrize("script", ["sge.sh", "lsf.lsf"])
def test_remote_ranks_are_started_by_the_scheduler(tmp_path: Path, prefix: Path, script: str) -> None:
    """Hydra gets each host once, and a remote shell that is the scheduler's own command."""
    shell, words = {"sge.sh": ("qrsh", "-inherit -nostdin n2"), "lsf.lsf": ("blaunch", "-n n2")}[script]
    executable(tmp_path / "commands" / shell, f'echo "{shell} $*"')
    (tmp_path / "pe").write_text("here 4 q@here UNDEFINED\nn2 4 q@n2 UNDEFINED\n")
    executable(prefix / "bin/mpiexec", MPIEXEC)
    job = {"PE_HOSTFILE": str(tmp_path / "pe"), "LSB_MCPU_HOSTS": "here 4 n2 4", "RAYHPC_LAUNCH": ""}
    done = run(tmp_path, script, RAYHPC_VENV=str(prefix), RAYHPC_RANKS_PER_HOST="2", **job)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "-n 4 -ppn 2 hosts here n2"
    assert said[1].startswith(f"{shell} {words} ")
    assert said[1].endswith("proxy --port 7")


@pytest.mark.parametrize("script", THROUGH_MPIEXEC)
def test_ranks_are_counted_on_each_host(tmp_path: Path, prefix: Path, script: str) -> None:
    """Two NUMA domains on the first host and one on the second; then the GPUs of any vendor."""
    executable(tmp_path / "commands/lscpu", 'echo "# Node"; echo 0; [ "$PMI_RANK" != 0 ] || echo 1')
    executable(prefix / "bin/mpiexec", MPIEXEC.replace('"$HYDRA', ': "$HYDRA'))
    gpus = f'[ "$2" != rayhpc.host.gpus ] || exec {sys.executable} "$@"'
    executable(prefix / "bin/python", f"{gpus}\n{COMMANDS['python']}")
    (tmp_path / "pe").write_text("here 4 q@here UNDEFINED\nn2 4 q@n2 UNDEFINED\n")
    (tmp_path / "nodes").write_text("here\nn2\n")
    job = {
        "PE_HOSTFILE": str(tmp_path / "pe"), "LSB_MCPU_HOSTS": "here 4 n2 4", "PBS_NODEFILE": str(tmp_path / "nodes"),
        "RAYHPC_LAUNCH": "", "RAYHPC_VENV": str(prefix),
    }  # fmt: skip
    done = run(tmp_path, script, RAYHPC_RANKS_PER_HOST="numa", **job)
    assert "-n 3 " in done.stdout and "hosts here:2 n2:1" in done.stdout, done.stderr
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        done = run(tmp_path, script, RAYHPC_RANKS_PER_HOST="gpu", **job, **{variable: "0,1,2"})
        assert "-n 6 -ppn 3 hosts here n2" in done.stdout, done.stderr
    done = run(tmp_path, script, RAYHPC_RANKS_PER_HOST="gpu", **job, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, "a host of the job has no gpu" in done.stderr) == (78, True)


def test_flux_starts_the_ranks(tmp_path: Path, prefix: Path) -> None:
    """One rank on each GPU of both hosts."""
    done = run(tmp_path, "flux.sh", RAYHPC_VENV=str(prefix), RAYHPC_RANKS_PER_HOST="gpu", RAYHPC_LAUNCH="")
    assert done.returncode == 0, done.stderr
    assert "flux run --nodes=2 --tasks-per-node=4 --exclusive " in done.stdout


def test_flux_submits_the_job_again(tmp_path: Path, prefix: Path) -> None:
    """With all that was said of it, so often as is allowed; the code stays the driver's."""
    launch = {"RAYHPC_LAUNCH": "ends", "RAYHPC_MAX_RESTARTS": "2", "CODE": "75", "RAYHPC_VENV": str(prefix)}
    executable(prefix / "bin/python", f'case "$2" in *json*) exec {sys.executable} "$@";; esac')
    done = run(tmp_path, "flux.sh", RAYHPC_RESTARTS="1", RAYHPC_CHAIN="100", **launch)
    assert done.returncode == 75
    assert "the next attempt of job 106 is job 107" in done.stderr
    job = json.loads((tmp_path / "submitted").read_text())
    told = {"A": "1", "RAYHPC_CHAIN": "100", "RAYHPC_RESTARTS": "2"}
    assert job["attributes"] == {"system": {"environment": told}, "x": "é"}
    (tmp_path / "submitted").unlink()
    done = run(tmp_path, "flux.sh", RAYHPC_RESTARTS="2", **launch)
    assert (done.returncode, (tmp_path / "submitted").exists()) == (75, False)
    assert "2 restarts are all" in done.stderr


def test_jsrun(tmp_path: Path, prefix: Path) -> None:
    """The batch host gets no rank."""
    executable(tmp_path / "commands/jsrun", 'echo "jsrun $*"')
    job = {"LSB_MCPU_HOSTS": "batch5 1 h41n08 42 h41n09 42", "RAYHPC_LAUNCH": "", "RAYHPC_RANKS_PER_HOST": "6"}
    done = run(tmp_path, "lsf.lsf", RAYHPC_VENV=str(prefix), **job)
    assert "jsrun --nrs 2 --rs_per_host 1 --tasks_per_rs 6 --cpu_per_rs ALL_CPUS" in done.stdout


def test_memory_that_salloc_left(tmp_path: Path, prefix: Path) -> None:
    """srun refuses two of these variables; scontrol knows which is the job's."""
    lines = "scontrol() { echo JobId=7 MinMemoryNode=1000M; }"
    both = {"SLURM_MEM_PER_NODE": "1000", "SLURM_MEM_PER_CPU": "500"}
    done = run(tmp_path, "slurm.sbatch", lines, RAYHPC_VENV=str(prefix), **both)
    assert "of several SLURM_MEM_PER_* the job's own is kept: SLURM_MEM_PER_NODE" in done.stderr


def test_a_heterogeneous_job_is_refused(tmp_path: Path, prefix: Path) -> None:
    done = run(tmp_path, "slurm.sbatch", RAYHPC_VENV=str(prefix), SLURM_HET_SIZE="2")
    assert done.returncode == 78
    assert "a heterogeneous job" in done.stderr
