"""What a rank begins before it has understood its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayhpc import start
from rayhpc.launch.command_line import parse


@pytest.mark.parametrize(
    ("words", "environ"),
    [(["--tls", "t.py"], {}), (["--one-per-host", "t.py"], {}), (["t.py"], {"RAYHPC_TLS": "1"}),
     (["t.py"], {"RAYHPC_ONE_PER_HOST": "yes"}), (["--num-cpus", "1", "--tls", "--", "true"], {}),
     (["--check", "t.py"], {}), (["--check=stop", "t.py"], {})],
)  # fmt: skip
def test_ray_is_not_begun_where_that_were_in_vain(
    words: list[str], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    options, _ = parse(words)
    assert options.tls or options.one_per_host or options.check
    assert not start.at_once(words, os.environ)


def test_it_is_begun_otherwise() -> None:
    assert start.at_once(["--num-cpus", "1", "t.py", "--lr", "3e-4"], {"PATH": "/bin"})


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--nonsense"], 2), ([], 2), (["nowhere.py"], 127)])
def test_what_was_begun_in_vain_is_gone_with_the_rank(words: list[str], code: int, tmp_path: Path) -> None:
    mark = f"RAYHPC_TEST={tmp_path}"
    environ = {**os.environ, **dict([mark.split("=")])}
    done = subprocess.run(
        [sys.executable, "-m", "rayhpc.start", *words], env=environ, cwd=tmp_path, capture_output=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == code
    assert [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and carries(entry, mark)] == []


def test_a_package_that_this_rank_lacks(tmp_path: Path) -> None:
    """No traceback, and the code for an environment that cannot work."""
    (tmp_path / "psutil.py").write_text("raise ModuleNotFoundError(\"No module named 'psutil'\", name='psutil')\n")
    done = subprocess.run(
        [sys.executable, "-m", "rayhpc.start", "true"], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.startswith(f"rayhpc: psutil cannot be imported  [{os.uname().nodename}]\n")
    assert f"Python: {sys.executable}" in done.stderr
    assert "Traceback" not in done.stderr


def carries(entry: Path, mark: str) -> bool:
    try:
        return mark.encode() in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


@pytest.mark.parametrize("module", ["rayhpc.start", "rayhpc"])
def test_modules_of_the_user_beside_the_job_are_not_ours(tmp_path: Path, module: str) -> None:
    for name in ("random", "select", "click", "json", "signal", "socket", "yaml", "psutil", "ray", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user')")
    command = [sys.executable, "-m", module, "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout


def test_other_programs_that_import_us_keep_their_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import rayhpc, beside; print(beside.WORD)")
    (tmp_path / "beside.py").write_text("WORD = 'found'")
    command = [sys.executable, "-m", "mine"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "found\n", run.stderr
