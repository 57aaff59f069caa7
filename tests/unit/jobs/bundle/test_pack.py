"""What a job brings along: what is left out of it, and packages that are installed for all its processes."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from rayhpc.errors import RayhpcError
from rayhpc.jobs.bundle import pack, packages
from rayhpc.jobs.bundle.excludes import left_out
from rayhpc.jobs.bundle.script import PACKAGES
from rayhpc.jobs.request import JobRequest

# A build without network: pip needs nothing but what is here.
BACKEND = """
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    open("litter", "w").close()
    with zipfile.ZipFile(f"{directory}/labpkg-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write("labpkg.py")
        wheel.writestr("labpkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: labpkg\\nVersion: 1.0\\n")
        wheel.writestr("labpkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n")
        wheel.writestr("labpkg-1.0.dist-info/RECORD", "")
    return "labpkg-1.0-py3-none-any.whl"
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "lib" / "backend.py").write_text(BACKEND)
    (tmp_path / "lib" / "labpkg.py").write_text("VALUE = 'installed'\n")
    return tmp_path / "lib"


@pytest.mark.parametrize(
    ("path", "patterns", "expected"),
    [
        ("a/b.ckpt", ["*.ckpt"], True),
        ("a/b.ckpt.txt", ["*.ckpt"], False),
        (".git", [".git/"], True),
        ("a/.git", [".git"], True),
        ("runs/1", ["runs/*"], True),
        ("a/runs/1", ["runs/*"], False),
        ("a/runs/1", ["**/runs/*"], True),
        ("runs/1", ["**/runs/*"], True),
        ("runs", ["/runs"], True),
        ("a/runs", ["/runs"], False),
        ("a", [], False),
    ],
)
def test_patterns(path: str, patterns: list[str], expected: bool) -> None:
    assert left_out(PurePosixPath(path), directory=True, patterns=patterns) is expected


def test_a_pattern_for_directories_leaves_files_alone() -> None:
    assert not left_out(PurePosixPath("build"), directory=False, patterns=["build/"])


def test_what_is_left_out_is_neither_sent_nor_counted(tmp_path: Path) -> None:
    for name in ("keep/x", "keep/large.ckpt", ".git/objects/y"):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    with (tmp_path / "data" / "keep" / "large.ckpt").open("r+b") as large:
        large.truncate(pack.LIMIT)
    request = JobRequest("x", mounts=((f"{tmp_path}/data", "/tmp/data"),), excludes=("*.ckpt", ".git/"))
    pack.check(request)
    with pack.packed(request) as packed, tarfile.open(Path(packed, "mount-1.d")) as tar:
        assert sorted(tar.getnames()) == ["data", "data/keep", "data/keep/x"]
    with pytest.raises(RayhpcError, match="the file mounts are 101 MiB"):
        pack.check(JobRequest("x", mounts=request.mounts))


def test_a_package_is_there_for_the_job_and_for_its_tasks(package: Path) -> None:
    look = "import importlib.metadata as m, labpkg; print(labpkg.VALUE, m.version('labpkg'))"
    with pack.packed(JobRequest("x", packages=(str(package),))) as packed:
        place = Path(packed)
        hooked = f"import rayhpc_job; rayhpc_job.prepare(); {look}"
        for program, path in ((look, place / PACKAGES), (hooked, place.parent)):
            argv = [sys.executable, "-c", program]
            done = subprocess.run(argv, env={"PYTHONPATH": str(path)}, capture_output=True, text=True, check=True)
            assert done.stdout == "installed 1.0\n"
    assert sorted(path.name for path in package.iterdir()) == ["backend.py", "labpkg.py", "pyproject.toml"]


def test_a_package_that_cannot_be_built_is_told_with_pips_words(package: Path) -> None:
    (package / "backend.py").write_text("raise SystemError('no compiler here')\n")
    request = JobRequest("x", packages=(str(package),))
    refused = pytest.raises(RayhpcError, match=f"the package {package} cannot be installed")
    with refused as caught, pack.packed(request):
        pytest.fail("it was packed")
    assert any("no compiler here" in line for line in caught.value.fault.evidence)
    assert caught.value.fault.next_step == f"try it: pip install {package}; nothing was submitted"


def test_a_build_that_does_not_end(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "backend.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(packages, "_INSTALL_SECONDS", 1.5)
    with pytest.raises(RayhpcError) as caught, pack.packed(JobRequest("x", packages=(str(package),))):
        pytest.fail("it was packed")
    assert caught.value.fault.evidence == ("pip has not ended within 1.5 s",)
