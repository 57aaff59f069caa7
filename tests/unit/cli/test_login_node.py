"""docs/login-node.md: the light install is enough for what it promises, shells complete, colours can be left out."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayhpc.errors import ExitCode
from tests import light_install
from tests.unit.batch_fakes import Login, login_node

PAGE = light_install.PAGE.read_text()
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])\b[0-9;]*m")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return light_install.make(tmp_path_factory.mktemp("light") / "venv")


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """A login node of a Slurm that has taken job 17 and lost it; the user's records are the test's."""
    login = login_node(tmp_path, monkeypatch)
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    login.fake("sbatch", "echo 17")
    login.fake("squeue", "echo '17|RUNNING|0|None|'")
    login.fake("scancel", "true")
    return login


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "rayhpc", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("package", ["ray", "mpi4py", "torch", "matplotlib", "numpy"])
def test_the_light_environment_has_no_more(light: Path, package: str) -> None:
    assert subprocess.run([light, "-c", f"import {package}"], capture_output=True, check=False).returncode == 1


def test_allocations_with_the_light_install(light: Path, login: Login) -> None:
    submitted = run(light, "alloc", "submit", "slurm", "-N", "2", "-t", "10", "--", "train.py", "--lr", "3e-4")
    assert (submitted.returncode, submitted.stdout) == (0, "17\n"), submitted.stderr
    assert "set -- train.py --lr 3e-4\n" in next(login.directory.glob("*.sbatch")).read_text()
    listed = run(light, "alloc", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "RUNNING" in listed.stdout
    assert run(light, "alloc", "show", "17").returncode == 0
    assert run(light, "alloc", "cancel", "17").returncode == 0
    assert login.calls("scancel")[-1][-1] == "17"
    assert run(light, "alloc", "init", "slurm").returncode == 0


@pytest.mark.parametrize("words", ["cluster list", "cluster list --json", "runs list", "runs list --json"])
def test_lists_with_the_light_install(light: Path, login: Login, words: str) -> None:
    done = run(light, *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_what_needs_ray_says_so(light: Path, login: Login) -> None:
    done = run(light, "start", "/bin/true")
    assert done.returncode == ExitCode.CONFIGURATION
    assert "ray cannot be imported" in done.stderr
    assert "pip install 'ray[rllib]'" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------ completion


def line_of(shell: str) -> str:
    """What the page tells a user of this shell to write into the startup file."""
    row = next(row for row in PAGE.splitlines() if row.startswith(f"| {shell}"))
    return row.rpartition(" | `")[2].removesuffix("` |").replace("\\|", "|")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["rayhpc", "clu"], {"cluster"}),
        (["rayhpc", "alloc", "sub"], {"submit"}),
        (["rayhpc", "cluster", "list", "--js"], {"--json"}),
        (["rayhpc", "alloc", "submit", "sl"], {"slurm"}),
    ],
    ids=" ".join,
)
def test_bash_completes(typed: list[str], completed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A real bash reads the page's line and runs the function that the Tab key runs."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    script = (
        f'{line_of("bash")}\nfunction_of() {{ echo "${{@: -2:1}}"; }}\n'
        "name=$(function_of $(complete -p rayhpc))\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $name rayhpc; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *typed], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    """zsh and fish are not on every machine: what they would read is asked for as the page says."""
    words = re.search(rf"rayhpc completion {shell}\b", line_of(shell))
    assert words
    command = [Path(sys.executable).with_name("rayhpc"), *words[0].split()[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"_RAYHPC_COMPLETE={shell}_complete" in done.stdout


def test_another_shell_is_refused() -> None:
    done = run(Path(sys.executable), "completion", "tcsh")
    assert done.returncode == ExitCode.USAGE
    assert "'bash', 'zsh', 'fish'" in done.stderr


# --------------------------------------------------------------------------------------------------------- colours

BAR = "import time; from rayhpc.log import Console\nwith Console(0.0).bar('nodes', 4) as bar:\n    bar.show(2)\n"
TABLE = "from rayhpc.cli.base import print_table; print_table(('ID', 'STATE'), [('1', 'up')])"


def on_a_terminal(script: str, **variables: str) -> str:
    """What a program writes to a terminal of its own."""
    ours, its = pty.openpty()
    unset = {"NO_COLOR", "FORCE_COLOR", "COLORTERM"}
    environ = {**{name: value for name, value in os.environ.items() if name not in unset}, **variables}
    with subprocess.Popen([sys.executable, "-c", script], stdin=its, stdout=its, stderr=its, env=environ) as child:
        os.close(its)
        written = bytearray()
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # EIO: the program has closed its end
            pass
        finally:
            os.close(ours)
        assert child.wait(60) == 0, written
    return written.decode()


def test_no_color() -> None:
    assert COLOUR.search(on_a_terminal(BAR, TERM="xterm-256color"))
    plain = on_a_terminal(BAR, TERM="xterm-256color", NO_COLOR="1")
    assert "2/4" in plain
    assert not COLOUR.search(plain)


@pytest.mark.parametrize(("variables", "bold"), [({}, True), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)])
def test_tables_have_no_colours_and_bold_headings(variables: dict[str, str], bold: bool) -> None:
    shown = on_a_terminal(TABLE, **{"TERM": "xterm-256color", **variables})
    assert ("\x1b[1m" in shown) == bold
    assert not COLOUR.search(shown)
    assert "up" in shown


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_table_has_a_hundred_columns(term: str) -> None:
    wide = f"from rayhpc.cli.base import print_table; print_table(('ID', 'NAME'), [('{'a' * 40}', '{'b' * 50}')])"
    assert "b" * 50 in on_a_terminal(wide, TERM=term)
