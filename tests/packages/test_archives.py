"""The archives of a release: built, installed into a clean environment, and used there as a user does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rayhpc
from rayhpc import paths
from tests.launch import Jobs, Mpi, installed, nothing_left, skip

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-docs" / "bin" / "python"
HELLO = """
import ray, rayhpc, sys
ray.init(log_to_driver=False)
print("nodes", len([node for node in ray.nodes() if node["Alive"]]), "package", rayhpc.__file__)
sys.exit(7)
"""


@dataclass(frozen=True)
class Archives:
    wheel: Path
    sdist: Path


def tracked(place: Path) -> Path:
    """A copy of what a clone has: nothing that lies about in the working tree gets into an archive."""
    words = ("git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name, follow_symlinks=False)
    return place


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """The sdist, and the wheel that was built of it."""
    if not TOOLS.exists():
        skip(f"no tools that build packages: {TOOLS} is missing (make docs)")
    place = tmp_path_factory.mktemp("archives")
    clone = tracked(tmp_path_factory.mktemp("clone"))
    subprocess.run([TOOLS, "-m", "build", "--outdir", place, clone], check=True, capture_output=True, timeout=240)
    (wheel,), (sdist,) = place.glob("*.whl"), place.glob("*.tar.gz")
    return Archives(wheel, sdist)


@pytest.fixture(scope="session")
def clean(archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Mpi:
    """An environment with the wheel and an MPI of its own; Ray and the other packages it sees in that of the tests."""
    place = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    words = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "mpi4py", "mpich")
    environ = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    subprocess.run([python, *words], check=True, env=environ, timeout=240)
    subprocess.run([python, *words[:-2], "--no-deps", archives.wheel], check=True, timeout=240)
    (packages,) = place.glob("lib/python3*/site-packages")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    shared = subprocess.run([installed("mpich").python, "-c", code], capture_output=True, text=True, check=True).stdout
    (packages / "shared.pth").write_text(shared)
    return Mpi("mpich", str(python))


def run(clean: Mpi, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(clean.python).with_name("rayhpc")), *words]
    environ = {**clean.environment, "RAYHPC_STATE_DIR": str(directory / "state")}
    return subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_wheel_has_what_a_user_needs(archives: Archives) -> None:
    names = set(zipfile.ZipFile(archives.wheel).namelist())
    there = {path.name for path in (ROOT / "jobscripts").iterdir()}
    assert {f"rayhpc/jobscripts/{name}" for name in there} <= names
    lab = {"lab/conf/lab.yaml", "lab/conf/experiment/cartpole-ppo.yaml"}
    data = {"py.typed", "jobs/bundle/mounts.sh", "examples/train_ppo.py", *lab}
    data |= {"sites/tables/polaris.yaml", "containers/enter.sh"}
    assert {f"rayhpc/{name}" for name in data} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"rayhpc", f"rayhpc-{rayhpc.__version__}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "rayhpc").rglob("*.py")}
    assert modules - names == set()


def test_the_sdist_has_what_a_packager_needs(archives: Archives) -> None:
    with tarfile.open(archives.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "setup.cfg", "pyproject.toml", "rayhpc/start.py"} <= names


def test_the_version_comes_from_one_place(archives: Archives, clean: Mpi, tmp_path: Path) -> None:
    assert archives.wheel.name == f"rayhpc-{rayhpc.__version__}-py3-none-any.whl"
    assert archives.sdist.name == f"rayhpc-{rayhpc.__version__}.tar.gz"
    assert run(clean, tmp_path, "--version").stdout == f"rayhpc {rayhpc.__version__}\n"


def test_the_command_works_in_a_clean_environment(clean: Mpi, tmp_path: Path) -> None:
    helped = run(clean, tmp_path, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "alloc" in helped.stdout
    assert run(clean, tmp_path, "completion", "bash").returncode == 0
    assert run(clean, tmp_path, "alloc", "init", "slurm").stdout == "slurm.sbatch\n"
    assert (tmp_path / "slurm.sbatch").read_text() == (ROOT / "jobscripts" / "slurm.sbatch").read_text()


@pytest.fixture
def jobs_of_wheel(clean: Mpi, tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(clean, tmp_path)
    try:
        yield jobs
    finally:
        jobs.close()
        for path in [path for path in tmp_path.iterdir() if path.is_dir()]:
            with nothing_left(path):
                pass


def test_a_driver_on_two_ranks(jobs_of_wheel: Jobs, clean: Mpi, tmp_path: Path) -> None:
    driver = tmp_path / "hello.py"
    driver.write_text(HELLO)
    job = jobs_of_wheel.start(str(driver), ranks=2)
    assert job.wait() == 7, job.output()
    package = job.until(r"nodes 2 package (\S+)")[1]
    assert Path(package).is_relative_to(Path(clean.python).parents[1])
    assert [file.name for file in job.run.iterdir() if not any(map(file.match, paths.RUN_FILES))] == []
