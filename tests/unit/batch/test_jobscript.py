"""The copy of the jobscript: bash reads from it the very words that were given, whatever they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rayhpc
from rayhpc.batch import jobscript, submit
from rayhpc.errors import RayhpcError
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import Request
from tests.unit.batch_fakes import SCRIPT
from tests.unit.making import HOSTILE

# An argument is any bytes but NUL; those that are no UTF-8 reach Python as lone surrogates.
arguments = st.binary(max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
)


def heard(lines: str, locale: str = "C.UTF-8") -> list[str]:
    """The positional parameters of bash after these lines."""
    done = subprocess.run(
        ["bash", "-euc", f'{lines}\n(($# == 0)) || printf "%s\\0" "$@"'],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": locale},
        check=True,
    )
    return os.fsdecode(done.stdout).split("\0")[:-1]


@settings(max_examples=150)
@given(st.lists(arguments, max_size=4))
@example(list(HOSTILE))
@example(["", "a\r\nb", "\x7f\x01", "'", "\\", "$'x'", "\\'\n", "!!", "é\n'", "\udcff\n", "\u2028", "1\n2'3\\4"])
def test_bash_reads_the_words_that_were_given(words: list[str]) -> None:
    (line,) = jobscript.filled(jobscript.COMMAND, words, []).split("\n")
    assert heard(line) == words


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX", "xx_XX.ISO8859-1"])
def test_the_locale_of_the_job_does_not_matter(locale: str) -> None:
    words = [*HOSTILE, "\udce9", "naïve\n日本"]
    assert heard(jobscript.filled(jobscript.COMMAND, words, []), locale) == words


@given(st.lists(arguments, min_size=1, max_size=3))
def test_a_script_is_bytes(words: list[str]) -> None:
    text = jobscript.filled(SCRIPT + "# caf\udce9\n", words, ["export A=1"])
    assert text.encode("utf-8", "surrogateescape")
    assert "\r" not in text
    assert text.count("\n") == SCRIPT.count("\n") + 1


def test_the_rest_of_the_script_stays_as_it_is() -> None:
    filled = jobscript.filled(SCRIPT, ["a b"], ["export X=1", "export Y=2"])
    assert filled == SCRIPT.replace("# rayhpc: settings", "export X=1\nexport Y=2").replace(
        "# rayhpc: command", "set -- 'a b'"
    )


def test_settings_without_a_place_stand_before_the_command() -> None:
    assert jobscript.filled("#!/bin/bash\n  # rayhpc: command\n", ["a"], ["export X=1"]) == (
        "#!/bin/bash\nexport X=1\nset -- a\n"
    )


@pytest.mark.parametrize("script", ["", "echo\n# rayhpc: commands\n", f"{SCRIPT}# rayhpc: command\n"])
def test_a_script_needs_one_place_for_the_command(script: str) -> None:
    with pytest.raises(RayhpcError, match="lines '# rayhpc: command'"):
        jobscript.filled(script, ["a"], [])


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RayhpcError, match="No such file") as error:
        jobscript.read(tmp_path / "missing")
    assert "alloc init" in error.value.fault.next_step


def test_a_scheduler_without_a_script() -> None:
    with pytest.raises(RayhpcError, match="no jobscript is shipped for this scheduler") as error:
        jobscript.shipped("")
    assert "--script" in error.value.fault.next_step


@pytest.mark.parametrize("name", sorted({system.script for system in SYSTEMS.values() if system.script}))
def test_a_shipped_script_takes_the_words(name: str, tmp_path: Path) -> None:
    """The copy is still bash, and its line gives the words."""
    filled = jobscript.filled(
        jobscript.read(jobscript.shipped(name)), list(HOSTILE), ["export RAYHPC_RANKS_PER_HOST=2"]
    )
    jobscript.save(tmp_path / name, filled)
    subprocess.run(["bash", "-n", tmp_path / name], check=True)
    (line,) = [line for line in filled.split("\n") if line.startswith("set -- $'") or line.startswith("set -- 'a'")]
    assert heard(line) == list(HOSTILE)
    assert filled.index("export RAYHPC_RANKS_PER_HOST=2") < filled.index(line)


# -------------------------------------------------------------------------------------------------------- settings


def variables(lines: list[str], *names: str, **environ: str) -> list[str]:
    """What bash has in these variables after these lines; None as 'unset'."""
    script = "\n".join([*lines, "set --", *(f'set -- "$@" "${{{name}-unset}}"' for name in names)])
    return heard(
        "\n".join([*(f"export {name}={jobscript.bash_word(value)}" for name, value in environ.items()), script])
    )


def test_what_the_script_is_told() -> None:
    environ = {
        "RAYHPC_NUM_CPUS": "8", "RAYHPC_DEADLINE": "5", "RAYHPC_RUN_DIR": "/elsewhere", "RAYHPC_NODE": "x/0",
        "RAYHPC_VENV": "/v", "RAYHPC_REQUEUE": "no", "HOME": "/h",
    }  # fmt: skip
    assert submit.bootstrap_options(Request(ranks_per_host="2"), "runs", environ) == [
        f"export RAYHPC_RUN_DIR={Path('runs').absolute()}",
        f"export RAYHPC_SUBMITTED_BY={rayhpc.__version__}",
        "export RAYHPC_REQUEUE=no",
        "export RAYHPC_RANKS_PER_HOST=2",
        "export RAYHPC_VENV=${RAYHPC_VENV-/v}",
        "export RAYHPC_NUM_CPUS=${RAYHPC_NUM_CPUS-8}",
    ]


@settings(max_examples=25)
@given(value=arguments)
@example("}'\"\\\n$(x)`x`${x}")
@example("}\r\n\t'\\")
def test_a_value_is_set_unless_the_script_has_one(value: str) -> None:
    assert variables(jobscript.exports({"X": value}), "X", X="old") == [value]
    assert variables(jobscript.defaults({"X": value}), "X") == [value]
    assert variables(jobscript.defaults({"X": value}), "X", X="own") == ["own"]
    assert variables(jobscript.defaults({"X": value}), "X", X="") == [""]


def test_the_environment_that_this_python_is_in_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not any("RAYHPC_VENV" in line for line in submit.bootstrap_options(Request(), "runs", {}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    assert f"export RAYHPC_VENV=${{RAYHPC_VENV-{tmp_path}}}" in submit.bootstrap_options(Request(), "runs", {})
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert not any("RAYHPC_VENV" in line for line in submit.bootstrap_options(Request(), "runs", {}))


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_whole_copy_runs_and_the_driver_gets_its_words(name: str, tmp_path: Path) -> None:
    own = tmp_path / "own.sh"
    own.write_text(SCRIPT)
    words = ["train.py", *HOSTILE, "a\r\nb"]
    submission = submit.plan_submission(SYSTEMS[name], Request(), words, str(tmp_path / "runs'\n$x"), str(own), {})
    submission.script.parent.mkdir(parents=True)
    jobscript.save(submission.script, submission.text)
    done = subprocess.run([submission.script], capture_output=True, check=True)
    kept = submission.script.with_name("job.out")
    output = done.stdout if SYSTEMS[name].live_output else kept.read_bytes()
    assert json.loads(output) == words
    assert submission.script.stat().st_mode & 0o777 == 0o700


def test_a_wheel_has_the_scripts_and_their_default_driver(tmp_path: Path) -> None:
    """`pip install rayhpc` alone can submit: the links in the source tree become files."""
    pytest.importorskip("setuptools", minversion="68")
    root = Path(__file__).parents[3]
    for name in ("rayhpc", "jobscripts", "examples"):
        shutil.copytree(root / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        for script in (root / "jobscripts").iterdir():
            assert wheel.read(f"rayhpc/jobscripts/{script.name}") == script.read_bytes()
            assert b"-m rayhpc.examples.train_ppo --output" in script.read_bytes()
        wheel.extractall(tmp_path / "installed")
    default = [sys.executable, "-m", "rayhpc.examples.train_ppo", "--help"]
    shown = subprocess.run(default, cwd=tmp_path / "installed", capture_output=True, text=True, check=True)
    assert "--stop-return" in shown.stdout
