"""The list of checks, its page of documentation, the report, and a check that hangs or breaks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rayhpc import finding
from rayhpc.cli.main import main
from rayhpc.doctor import catalog, checks_files, checks_host, checks_python
from rayhpc.doctor.here import Here
from rayhpc.doctor.look import look
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.finding import Finding, Verdict, fail, warn
from rayhpc.host import this_host
from rayhpc.options import Options
from rayhpc.schedulers.slurm import SLURM
from tests.launch import REPOSITORY


def here(**environ: str) -> Here:
    return Here(Options(), environ)


def test_the_page_is_made_of_the_list() -> None:
    page = (REPOSITORY / "docs" / "checks.md").read_text()
    assert page == catalog.page(), "rayhpc doctor explain --all > docs/checks.md"


def test_every_check_is_explained_and_has_one_id() -> None:
    assert len({finding.name(check) for check in catalog.EXPLAINED}) == len(catalog.EXPLAINED)
    for check in catalog.ALL:
        assert 10 < len(catalog.title(check)) <= 80, finding.name(check)
        assert len(catalog.explanation(check)) > 60, finding.name(check)


def test_every_check_of_the_modules_is_in_the_list() -> None:
    modules = (catalog.checks_files, catalog.checks_gpus, catalog.checks_host, catalog.checks_job)
    modules += (catalog.checks_network, catalog.checks_site, checks_python)  # type: ignore[assignment]
    made = {
        value
        for module in modules
        for value in vars(module).values()
        if getattr(value, "__module__", "") == module.__name__
        and getattr(value, "__annotations__", {}).get("return") == "Iterator[Finding]"
    }
    assert made == set(catalog.ALL)


def test_a_check_is_explained() -> None:
    done = CliRunner().invoke(main, ["doctor", "explain", "umask"])
    assert done.exit_code == 0
    assert done.stdout.startswith("umask: New files can be read by their owner")
    assert CliRunner().invoke(main, ["doctor", "explain"]).stdout.count("\n") == len(catalog.EXPLAINED)


@pytest.mark.parametrize("words", [["explain", "umsk"], ["--only", "umsk"], ["--skip", "umask,umsk"]])
def test_an_id_that_does_not_exist(words: list[str]) -> None:
    done = CliRunner().invoke(main, ["doctor", *words])
    assert done.exit_code == 2
    assert "there is no check 'umsk'" in done.stderr
    assert "did you mean umask?" in done.stderr


def test_only_and_skip() -> None:
    checks = catalog.chosen(catalog.ALL, only=["umask", "home"], skip=["home"])
    assert [finding.name(check) for check in checks] == ["umask"]


def test_a_check_that_hangs_or_breaks_hides_no_other() -> None:
    release = threading.Event()

    def hangs(_: Here) -> Iterator[Finding]:
        release.wait(30)
        yield from ()

    def breaks(_: Here) -> Iterator[Finding]:
        raise ZeroDivisionError("of its own")

    def finds(_: Here) -> Iterator[Finding]:
        yield warn("something", next_step="x")

    found = look([hangs, breaks, finds], here(), seconds=0.5)
    release.set()
    assert [(each.id, each.verdict) for each in found] == [
        ("hangs", Verdict.FAIL),
        ("breaks", Verdict.WARN),
        ("finds", Verdict.WARN),
    ]
    assert "ZeroDivisionError: of its own" in found[1].what


def test_checks_are_made_where_no_thread_may_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert [each.id for each in look([checks_host.ray_variables], here(RAY_ADDRESS="x"))] == ["ray-variables"]


def test_equal_findings_of_many_hosts_are_one() -> None:
    every = [warn("slow", f"{n} MB/s", next_step="x") for n in range(5)]
    named = [Finding(each.verdict, each.what, each.evidence, id="speed", where=f"n{n}") for n, each in enumerate(every)]
    first = Finding(Verdict.FAIL, "gone", id="reach", where="n9")
    joined = finding.joined([*named, first])
    assert [(each.id, each.where) for each in joined] == [("reach", "n9"), ("speed", "n0, n1, n2 and 2 more")]
    text = finding.report(joined, "rayhpc doctor: 9 checks on 6 hosts in 1.0 s")
    assert text.splitlines()[0] == "fail  reach: gone  [n9]"
    assert text.endswith("rayhpc doctor: 9 checks on 6 hosts in 1.0 s: 1 failure, 1 warning; exit code 78")


def test_what_is_well_is_one_line() -> None:
    assert finding.report([], "rayhpc doctor: 9 checks in 1.0 s") == "rayhpc doctor: 9 checks in 1.0 s: all is well"


@pytest.mark.parametrize(
    ("code", "seconds", "verdict"),
    [("raise ImportError('no _raylet')", 10, Verdict.FAIL), ("import time; time.sleep(0.3)", 0.1, Verdict.WARN)],
)
def test_a_ray_that_is_broken_or_slow(
    code: str, seconds: float, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text(code)
    monkeypatch.setattr(checks_python, "_SLOW_IMPORT", seconds)
    (found,) = checks_python.import_ray(here(**{**os.environ, "PYTHONPATH": str(tmp_path)}))
    assert found.verdict is verdict
    assert "no _raylet" in found.evidence[0] or "0." in found.evidence[0]


@pytest.mark.parametrize(
    ("files", "environ", "words"),
    [
        ({"memory.max": str(2**29)}, {}, "less than 1 GiB"),
        ({"memory.max": str(2**33)}, {"SLURM_MEM_PER_NODE": str(2**14)}, "less memory than the scheduler"),
        ({"cpu.max": "100000 100000"}, {"SLURM_CPUS_ON_NODE": "8"}, "fewer CPUs than the scheduler"),
        ({"cpu.max": "max 100000", "memory.max": "max"}, {"SLURM_CPUS_ON_NODE": "8"}, ""),
    ],
)
def test_a_cgroup_that_grants_too_little(
    files: dict[str, str], environ: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(this_host, "_cgroups", lambda _: [tmp_path])
    monkeypatch.setattr(this_host.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**40}))
    found = [each.what for each in checks_host.cgroup(here(SLURM_JOB_ID="1", **environ))]
    assert len(found) == bool(words)
    assert words in "".join(found)
    assert here(SLURM_JOB_ID="1").scheduler is SLURM


def test_a_refusal_of_a_run_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_host, "free_space", lambda _: 2**30)
    (found,) = look([checks_files.shm], Here(Options(object_store_memory="20G"), {}))
    assert (found.id, found.verdict) == ("shm", Verdict.FAIL)
    assert found.next_step.startswith("ask for less")
    assert fail("x", next_step="y").verdict is found.verdict


def test_an_interface_that_nobody_has() -> None:
    (found,) = look([checks_host.interfaces], Here(Options(interface="nope0"), {}))
    assert found.what == "no interface of this host matches --interface nope0"


def test_an_unknown_check_is_a_wrong_command_line() -> None:
    with pytest.raises(RayhpcError) as caught:
        catalog.find("nonsense", catalog.EXPLAINED)
    assert caught.value.fault.code == ExitCode.USAGE


def test_every_thread_of_a_look_is_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that hangs must not keep the process from ending."""
    seen: list[Any] = []

    def note(_: Here) -> Iterator[Finding]:
        seen.append(threading.current_thread().daemon)
        yield from ()

    look([note], here())
    assert seen == [True]
