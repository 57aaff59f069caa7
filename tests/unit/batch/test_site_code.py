"""Other people's shell code in the shipped scripts: environments of every kind, modules, what they may not see."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

JOBSCRIPTS = Path(__file__).parents[3] / "jobscripts"
SCRIPTS = ("slurm.sbatch", "pbs.pbs", "theta.pbs")
# Stand for the commands of a cluster of one host, and for an environment's Python: the driver's arguments are printed.
COMMANDS = {
    "python": '[ "$1" = -c ] && exit; printf "%s\\n" "PREFIX=${CONDA_PREFIX:-} HOOK=${HOOK:-}" "$@"',
    "mpiexec": 'echo "HYDRA build details"',
    "srun": 'echo "MPI plugin types are none"',
    "scontrol": "echo here",
}
JOB = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here", "SLURM_JOB_CPUS_PER_NODE": "2",
    "SLURM_CPUS_ON_NODE": "2",
    "PBS_JOBID": "7.server", "RAYHPC_LAUNCH": "env",
}  # fmt: skip


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
    for name in ("srun", "scontrol"):
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


def test_the_two_scripts_of_pbs_start_mpiexec_alike() -> None:
    assert function("pbs.pbs", "through_mpiexec") == function("theta.pbs", "through_mpiexec")
    again = [function("pbs.pbs", "submit_again"), function("theta.pbs", "submit_again_to_pbs")]
    assert again[0] == again[1].replace("submit_again_to_pbs", "submit_again")


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
