"""Ray's command as rayhpc begins it: what it imports, from where, and packages that come when they are wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhpc.inside_ray import ray_command


def run(text: str, directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """In a directory; text is what it is told."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", ray_command.__file__], input=text, text=True, capture_output=True,
        cwd=directory, env={**os.environ, **environ}, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("safe", ["", "1"])
def test_it_is_rays_command_without_what_is_not_needed(tmp_path: Path, safe: str) -> None:
    """Nothing comes from the working directory, nor from ours, whose modules have ordinary names."""
    (tmp_path / "ray.py").write_text("raise SystemExit('the wrong ray')")
    log = tmp_path / "log"
    word = {"arguments": ["--version"], "environment": {}, "log": str(log)}
    done = run(json.dumps(word), tmp_path, PYTHONSAFEPATH=safe)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "ray, version" in log.read_text()
    imported = {line.rpartition("|")[2].strip() for line in (done.stderr + log.read_text()).splitlines()}
    assert {"ray", "ray._raylet"} <= imported
    assert not {"requests", "urllib3", "jsonschema", "yaml", "ray.serve", "ray.job_submission", "signals"} & imported


def test_it_has_the_environment_that_it_is_told_and_adds_to_its_log(tmp_path: Path) -> None:
    """RAY_START_HOOK names what `ray start` calls before it starts anything."""
    (tmp_path / "its_hook.py").write_text("import os\ndef call(*_):\n    raise SystemExit(os.environ['TOLD'])\n")
    log = tmp_path / "log"
    log.write_text("first\n")
    environment = {"TOLD": "as told", "RAY_START_HOOK": "its_hook.call"}
    word = {"arguments": ["start", "--head"], "environment": environment, "log": str(log)}
    done = run(json.dumps(word), tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert log.read_text().startswith("first\n")
    assert "as told" in log.read_text()


def test_untold_it_ends(tmp_path: Path) -> None:
    """Who began it is gone."""
    done = run("", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "late_example"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("print('imported')\nfrom late_example.inner import inside\n")
    (tmp_path / name / "inner.py").write_text("inside = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, name, ray_command.Late(name))
    yield name
    for module in (name, f"{name}.inner"):
        sys.modules.pop(module, None)


def test_a_late_package_is_imported_by_its_first_use(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    import late_example  # type: ignore[import-not-found]
    import late_example as again

    assert capsys.readouterr().out == ""
    assert (late_example.inside, again.inside) == (7, 7)
    assert sys.modules[package] is not late_example
    import late_example as real

    assert (real.inside, real is sys.modules[package]) == (7, True)
    assert capsys.readouterr().out == "imported\n"


def test_a_submodule_is_a_use(package: str) -> None:
    from late_example.inner import inside

    assert inside == 7


def test_two_threads_import_it_once(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    late, seen = sys.modules[package], []
    threads = [threading.Thread(target=lambda: seen.append(late.inside)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [7] * 8
    assert capsys.readouterr().out == "imported\n"


def test_a_package_that_is_not_installed_is_missed_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    late = ray_command.Late("no_such_package")
    monkeypatch.setitem(sys.modules, "no_such_package", late)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        _ = late.anything
    assert "no_such_package" not in sys.modules


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("early", [True, False], ids=["known before", "told later"])
def test_the_node_table_without_the_patches(tmp_path: Path, switch: str, early: bool) -> None:
    """A program beside the head's `ray start`, with the environment of both: also of one that is started again."""
    (tmp_path / "its_hook.py").write_text(
        "import os, pathlib, time\n"
        "def call(*_):\n"
        "    end = time.monotonic() + 30\n"
        "    while not pathlib.Path('nodes').exists() and time.monotonic() < end and os.environ['WAIT'] == '0':\n"
        "        time.sleep(0.02)\n"
        "    print('there', pathlib.Path('nodes').is_socket(), flush=True)\n"
        "    os.killpg(0, 9)\n"
    )
    path, log = str(tmp_path / "nodes"), tmp_path / "log"
    known = {"RAYHPC_NODE_TABLE": path} if early else {}
    environment = {"RAY_START_HOOK": "its_hook.call", **({} if early else {"RAYHPC_NODE_TABLE": path})}
    order = {"arguments": ["start", "--head"], "environment": environment, "log": str(log)}
    variables = {"PYTHONPATH": str(tmp_path), "RAYHPC_RAY_PATCHES": switch, "WAIT": switch}
    subprocess.run(
        [sys.executable, ray_command.__file__], input=json.dumps(order), text=True, capture_output=True, cwd=tmp_path,
        env={**os.environ, **variables, **known}, timeout=120, check=False, start_new_session=True,
    )  # fmt: skip
    assert f"there {switch == '0'}" in log.read_text()
