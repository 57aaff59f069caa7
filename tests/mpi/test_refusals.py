"""Bad input under real mpiexec: one sentence, printed once, the exit code of the table, no stranded rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import Jobs, installed, launch_raw, of_mpi, until

pytestmark = pytest.mark.mpi
RANKS = [1, 2, 4]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["no_such_driver.py"], 127, "the driver no_such_driver.py was not found"),
        (["./plain.txt"], 126, "the driver ./plain.txt is not executable"),
        (["."], 126, "the driver . is a directory"),
        (["--num-cpu", "2", "x.py"], 2, "--num-cpus"),
        (["--resources", "{", "ok.py"], 2, "--resources"),
        ([], 2, "no driver was named"),
        (["--interface", "nope0", "ok.py"], 78, "no interface of this host matches --interface nope0"),
        (["--run-dir", "/proc/nope", "ok.py"], 78, "the run directory"),
        (["--dashboard", "ok.py"], 78, "pip install 'rayhpc[dashboard]'"),
        (["--temp-dir", "/tmp/" + "x" * 60, "ok.py"], 78, "bytes long"),
    ],
    ids=[
        "missing",
        "not-executable",
        "directory",
        "misspelt",
        "json",
        "none",
        "interface",
        "run-dir",
        "dashboard",
        "temp-dir",
    ],
)
def test_refused_once(jobs_of: Jobs, ranks: int, words: list[str], code: int, sentence: str) -> None:
    directory = jobs_of.directory / "job"
    directory.mkdir()
    (directory / "plain.txt").write_text("no program")
    (directory / "ok.py").write_text("print('never')")
    job = jobs_of.start(*words, ranks=ranks)
    assert job.wait(60) == code, job.output()
    assert job.output().count(f"exit code {code}:") == 1, job.output()
    assert sentence in job.output()
    assert "Traceback" not in job.output()


def test_one_rank_fails(jobs_of: Jobs) -> None:
    """What only the last rank meets ends all of them, and names it."""
    job = jobs_of.start_split({"RAYHPC_TEMP_DIR": "/nowhere"}, "/bin/true")
    assert job.wait(60) == 78, job.output()
    assert job.output().count("--temp-dir /nowhere cannot be used") == 1, job.output()
    assert "rank 3 on " in job.output()


def test_another_ray_on_one_rank(jobs_of: Jobs, tmp_path: Path) -> None:
    metadata = tmp_path / "shim" / "ray-2.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.0.0\n")
    job = jobs_of.start_split({"PYTHONPATH": str(tmp_path / "shim")}, "/bin/true")
    assert job.wait(60) == 78, job.output()
    assert "versions differ on rank 3" in job.output()
    assert "Ray 2.0.0" in job.output()


def test_the_wrong_launcher(tmp_path: Path) -> None:
    """mpiexec of one MPI, library of the other: singletons, recognised and refused."""
    mpich, openmpi, before = installed("mpich"), installed("openmpi"), of_mpi()
    job = launch_raw(mpich, tmp_path, [*mpich.mpirun, "-np", "3", openmpi.python, "-m", "rayhpc.start", "/bin/true"])
    assert job.wait(60) == 78, job.output()
    assert job.output().count("each would become a cluster of its own") == 1, job.output()
    assert until(lambda: of_mpi() <= before, 10), of_mpi() - before


def test_singletons_under_srun_without_mpi(jobs: Jobs) -> None:
    """What `srun -n 4` without --mpi gives: Slurm's variables, and each process alone."""
    env = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "17"}
    before = of_mpi()
    job = jobs.start("/bin/true", ranks=0, env=env)
    assert job.wait(60) == 78, job.output()
    assert "--mpi=pmi2" in job.output()
    assert until(lambda: of_mpi() <= before, 10), of_mpi() - before


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_is_printed_once(jobs_of: Jobs, flag: str) -> None:
    job = jobs_of.start(flag, ranks=4)
    assert job.wait(60) == 0
    assert job.output().count("rayhpc") >= 1
    assert job.output().count("Usage:" if flag == "--help" else "rayhpc ") == 1, job.output()
