"""What a rank finds: the temporary directory that it chooses, the interfaces that it offers."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rayhpc import paths
from rayhpc.bootstrap import resources
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import this_host
from rayhpc.model import Interface
from rayhpc.options import Options
from rayhpc.schedulers.slurm import SLURM
from tests.unit.making import HOSTILE

LONG = "/" + "x" * 89


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Say on which file system a directory is; the others are local."""

    def say(kinds: dict[str, str]) -> None:
        monkeypatch.setattr(this_host, "file_system", lambda path: kinds.get(path, "ext4"))

    return say


def chosen(wanted: str = "", **environ: str) -> tuple[str, tuple[str, ...]]:
    return resources.temp_base(wanted, environ)


def test_the_jobs_own_directory_is_taken(short: str, on: Callable[[dict[str, str]], None]) -> None:
    on({})
    assert chosen(TMPDIR=short) == (short, ())


def test_a_long_tmpdir_falls_back_with_a_notice(on: Callable[[dict[str, str]], None]) -> None:
    on({})
    base, (notice,) = chosen(TMPDIR=LONG)
    assert base == "/tmp"
    assert f"{LONG} is 90 bytes long, at most {paths.temp_base_limit(dashboard=False)} fit" in notice
    assert notice.endswith("using /tmp")


def test_bytes_count_and_not_characters() -> None:
    assert "bytes long" in resources._temp_problem("/" + "é" * (paths.temp_base_limit(dashboard=False) // 2 + 1))


def test_a_directory_in_which_others_may_rename_is_refused(short: str) -> None:
    assert resources._temp_problem(short) == ""
    Path(short).chmod(0o777)
    assert "is writable for others without the sticky bit" in resources._temp_problem(short)
    Path(short).chmod(0o1777)
    assert resources._temp_problem(short) == ""


def test_so_is_one_below_such_a_directory(short: str) -> None:
    below = Path(short, "a", "b")
    below.mkdir(parents=True)
    assert resources._temp_problem(str(below)) == ""
    Path(short).chmod(0o777)
    assert "is writable for others without the sticky bit" in resources._temp_problem(str(below))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
@pytest.mark.parametrize(("owner", "refused"), [(1, True), (65534, False), (0, False)])
def test_a_directory_of_another_account_is_refused(short: str, owner: int, refused: bool) -> None:
    os.chown(short, owner, -1)
    assert ("belongs to another account" in resources._temp_problem(short)) == refused


@pytest.mark.parametrize("name", ["tmp", "", "./x", *HOSTILE])
def test_a_relative_path_is_refused(name: str) -> None:
    assert resources._temp_problem(name) == "is not an absolute path"


@pytest.mark.parametrize(("directory", "words"), [("/nowhere", "No such file"), ("/proc/version", "Not a directory")])
def test_a_directory_that_cannot_be_used_is_refused(directory: str, words: str) -> None:
    assert words in resources._temp_problem(directory)
    with pytest.raises(RayhpcError, match=f"--temp-dir {directory}") as caught:
        chosen(directory)
    assert caught.value.fault.code == ExitCode.CONFIGURATION


def test_a_full_directory_is_refused(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert "No space left" in resources._temp_problem(short)


def test_the_probe_leaves_nothing(short: str, tmp_path: Path) -> None:
    assert resources._temp_problem(short) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_network_file_system_is_avoided(short: str, on: Callable[[dict[str, str]], None]) -> None:
    on({short: "nfs4"})
    base, (notice,) = chosen(TMPDIR=short)
    assert base == "/tmp"
    assert "is on nfs4" in notice
    assert notice.endswith("using /tmp")


def test_the_notice_names_the_directory_once(short: str, on: Callable[[dict[str, str]], None]) -> None:
    on({short: "nfs4"})
    assert chosen(TMPDIR=short)[1][0].count(short) == 1


def test_a_wanted_network_file_system_is_used_with_a_warning(short: str, on: Callable[[dict[str, str]], None]) -> None:
    on({short: "lustre"})
    base, (notice,) = chosen(short)
    assert base == short
    assert "is on lustre" in notice


def test_where_nothing_can_be_used_all_candidates_are_evidence(
    on: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on({})
    monkeypatch.setattr(resources, "_temp_problem", lambda *_: "is full")
    with pytest.raises(RayhpcError, match="no directory for Ray's session files") as caught:
        chosen(TMPDIR="/mine")
    assert [line.split()[2] for line in caught.value.fault.evidence] == ["/mine", "/tmp", "/var/tmp", "/dev/shm"]


def test_an_interface_that_nobody_has_is_refused_with_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (Interface("ib0", "10.2.0.5"),)
    monkeypatch.setattr(this_host, "interfaces", lambda wanted: found if wanted == "*" else ())
    with pytest.raises(RayhpcError, match="no interface of this host matches --interface hsn0") as caught:
        resources.interfaces("hsn0")
    assert caught.value.fault.evidence == ("ib0 10.2.0.5",)


def test_a_host_without_a_network_is_its_own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_host, "interfaces", lambda _: ())
    assert resources.interfaces("") == (Interface("lo", "127.0.0.1"),)


def test_the_scheduler_limits_memory_and_names_cpus(
    short: str, on: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on({})
    monkeypatch.setattr(this_host, "cpu_count", lambda: 4)
    environ = {"TMPDIR": short, "SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_NODE": "1"}
    found = resources.survey(2, Options(), SLURM, "srun", environ)
    assert (found.rank, found.scheduler_cpus, found.memory, found.launcher) == (2, 3, 2**20, "srun")
    assert (found.temp_base, found.cpus) == (short, frozenset(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("launcher", "named"), [("Open MPI's mpirun", True), ("mpiexec", False), ("", False)])
def test_outside_a_job_only_open_mpi_is_known_to_bind(
    short: str, on: Callable[[dict[str, str]], None], launcher: str, named: bool
) -> None:
    on({})
    found = resources.survey(0, Options(), None, launcher, {"TMPDIR": short})
    assert (found.scheduler_cpus is not None) == named


def test_letters_beyond_ascii_are_refused() -> None:
    assert "ASCII" in resources._temp_problem("/tmp/ü")


def test_a_directory_without_space_is_avoided(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {short: 49 * 2**20}
    monkeypatch.setattr(this_host, "free_space", lambda directory: free.get(directory, 2**30))
    base, (notice,) = chosen(TMPDIR=short)
    assert base == "/tmp"
    assert notice.endswith("has 49 MiB free, Ray needs 50 at least; using /tmp")
    with pytest.raises(RayhpcError, match="has 49 MiB free"):
        chosen(short)


def test_a_directory_without_programs_is_used_with_a_warning(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_host, "forbids_programs", lambda directory: directory == short)
    for base, (notice,) in (chosen(short), chosen(TMPDIR=short)):
        assert base == short
        assert "is mounted noexec" in notice


@pytest.mark.parametrize(
    ("options", "environ", "fits"),
    [
        ({}, {}, True),
        ({"object_store_memory": "9G"}, {}, True),  # Ray puts it on a disk, with a warning of its own
        ({"object_store_memory": "11G"}, {}, False),
        ({"object_store_memory": "11G"}, {"RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1"}, True),
        ({"object_store_memory": "11G", "ray_arg": ("--plasma-directory=/scratch",)}, {}, True),
    ],
)
def test_an_object_store_that_ray_would_refuse(options: dict[str, Any], environ: dict[str, str], fits: bool) -> None:
    if fits:
        resources.check_store(Options(**options), 2**30, environ)
    else:
        with pytest.raises(RayhpcError, match="--object-store-memory 11G, but /dev/shm has "):
            resources.check_store(Options(**options), 2**30, environ)
    resources.check_store(Options(**options), 12 * 2**30, environ)


def test_a_version_is_the_one_that_would_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And importlib.metadata's word for what has no directory with its version in its name."""
    assert resources.installed_version("ray") == importlib.metadata.version("ray")
    assert resources.installed_version("psutil") == importlib.metadata.version("psutil")
    for place, version in [("first", "2.60.0.dev0+abc"), ("second", "2.54.0")]:
        (tmp_path / place / f"ray-{version}.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path / "first"), str(tmp_path / "second")])
    assert resources.installed_version("ray") == "2.60.0.dev0+abc"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        resources.installed_version("ray-project")


@pytest.mark.parametrize(
    ("store", "mib", "words"),
    [
        ("", 1200, "only 1200 MiB of address space are allowed, and Ray needs 1580 at least"),
        ("8G", 8000, "only 8000 MiB of address space are allowed, and Ray needs 9692 at least"),
        ("", 6000, ""),
    ],
)
def test_a_small_address_space(store: str, mib: int, words: str) -> None:
    options = Options(object_store_memory=store)
    if words:
        with pytest.raises(RayhpcError, match=words) as caught:
            resources.check_address_space(options, mib << 20)
        assert caught.value.fault.code == ExitCode.CONFIGURATION
        assert "ulimit -v unlimited" in caught.value.fault.next_step
        assert ("--object-store-memory" in caught.value.fault.next_step) == bool(store)
    else:
        (warning,) = resources.check_address_space(options, mib << 20)
        assert warning.startswith(f"only {mib} MiB of address space are allowed (ulimit -v {mib << 10})")
    assert resources.check_address_space(options, None) == resources.check_address_space(options, 99 << 30) == ()
