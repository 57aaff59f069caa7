"""What a driver may ask about its run, in a run and outside of one."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rayhpc
from rayhpc.processes import environment
from tests.unit.making import assignment, cluster

VARIABLES = ("DEADLINE", "DEADLINE_FILE", "RESTARTS", "ALIVE_NODES", "RUN_ID", "RUN_DIR")


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", *(f"RAYHPC_{name}" for name in VARIABLES)):
        monkeypatch.delenv(name, raising=False)


def test_in_a_run_it_is_what_the_driver_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    end = int(time.time()) + 600.0
    spec = cluster(3, deadline=end, run_dir="/r/run")
    for name, value in environment.of_driver({"RAYHPC_RESTARTS": "2"}, assignment(spec), spec).items():
        monkeypatch.setenv(name, value)
    assert (rayhpc.address(), rayhpc.nodes(), rayhpc.restarts()) == (spec.address, 3, 2)
    assert (rayhpc.run_dir(), rayhpc.deadline()) == (Path("/r/run"), end)
    assert 590 < rayhpc.time_left() <= 600


def test_outside_of_a_run_a_driver_runs_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_RUN_DIR", "/where/the/user/wants/runs")
    assert (rayhpc.address(), rayhpc.nodes(), rayhpc.restarts(), rayhpc.run_dir()) == ("", 1, 0, None)
    assert rayhpc.deadline() == rayhpc.time_left() == math.inf


def test_the_end_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deadline"
    monkeypatch.setenv("RAYHPC_DEADLINE", "1800000000")
    monkeypatch.setenv("RAYHPC_DEADLINE_FILE", str(file))
    assert rayhpc.deadline() == 1.8e9  # the scheduler has not said otherwise
    file.write_text("1800003600\n")
    assert rayhpc.deadline() == 1.8e9 + 3600
    file.write_text("inf\n")
    assert rayhpc.time_left() == math.inf
    file.unlink()
    assert rayhpc.deadline() == 1.8e9


@pytest.mark.parametrize("text", ["soon", "nan", "12:30"])
def test_what_is_no_time_is_refused_with_its_place(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_DEADLINE", text)
    with pytest.raises(ValueError, match=f"RAYHPC_DEADLINE: '{text}'"):
        rayhpc.time_left()
    (tmp_path / "deadline").write_text(text)
    monkeypatch.setenv("RAYHPC_DEADLINE_FILE", str(tmp_path / "deadline"))
    with pytest.raises(ValueError, match=f"{tmp_path}/deadline: '{text}'"):
        rayhpc.deadline()


def test_it_imports_the_standard_library_alone() -> None:
    script = (
        "import sys, rayhpc\n"
        "for name in rayhpc.__all__: getattr(rayhpc, name)()\n"
        "others = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'rayhpc'))\n"
        "sys.exit(' '.join(others & {'ray', 'mpi4py', 'click', 'rich', 'psutil'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['rayhpc', 'rayhpc.driver_api']\n", "")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="time_lefft"):
        rayhpc.time_lefft  # type: ignore[attr-defined] # noqa: B018
