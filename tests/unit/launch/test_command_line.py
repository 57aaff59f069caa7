"""The command line: ours up to the driver, the driver's own from there on."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import rayhpc
from rayhpc import units
from rayhpc.cli import main as cli
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.launch.command_line import command, parse, split
from rayhpc.options import Options
from rayhpc.processes import environment
from tests.unit.making import assignment, cluster

FIELDS = {field.name: field for field in dataclasses.fields(Options)}
HINTS = typing.get_type_hints(Options)

# For each option a value that is not its default: as it is typed and as the program sees it.
SAMPLES: dict[str, tuple[str, Any]] = {
    "num_cpus": ("3", 3),
    "num_gpus": ("0", 0),
    "memory": ("64G", "64G"),
    "object_store_memory": ("8GiB", "8GiB"),
    "resources": ('{"a\'; echo foo": 2}', '{"a\'; echo foo": 2}'),
    "labels": ("zone=a,fast=yes", "zone=a,fast=yes"),
    "interface": ("hsn*", "hsn*"),
    "port": ("20001", 20001),
    "temp_dir": ("/tmp/two words", "/tmp/two words"),
    "run_dir": ("new\nline", "new\nline"),
    "rendezvous": ("tcp", "tcp"),
    "check": ("stop", "stop"),
    "check_skip": ("umask,home", "umask,home"),
    "timeout": ("90.5", 90.5),
    "min_nodes": ("2", 2),
    "spares": ("2", 2),
    "on_node_loss": ("abort", "abort"),
    "restart_nodes": ("1", 1),
    "ray_arg": ("--verbose", ("--verbose",)),
    "join": ("01234567", "01234567"),
    "walltime": ("01:00:00", "01:00:00"),
    "deadline": ("1800000000", 1.8e9),
    "grace": ("5", 5.0),
    "grace_signal": ("TERM", "TERM"),
    "stop_timeout": ("1", 1.0),
    "logs": ("never", "never"),
}
FLAGS = {"one_per_host", "dashboard", "metrics", "hold", "login_node", "tls", "register"}
# What other options, and Python, and mpirun would do with these is no concern of the driver's.
DRIVERS_OWN = ["--num-cpus", "7", "--help", "--version", "--hold", "--", "-m", "-h", "--no-such", "--logs=never", ""]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def said(name: str, text: str, joined: bool = False) -> list[str]:
    """An option as it is typed; one that may stand alone has its value joined."""
    return [f"{flag(name)}={text}"] if joined or "bare" in FIELDS[name].metadata else [flag(name), text]


def refused(*words: str) -> Fault:
    with pytest.raises(RayhpcError) as caught:
        parse(words)
    assert caught.value.fault.code == ExitCode.USAGE
    return caught.value.fault


def test_every_option_has_a_sample() -> None:
    assert set(SAMPLES) | FLAGS == set(FIELDS)
    assert {name for name, hint in HINTS.items() if hint is bool} == FLAGS


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_option_before_the_driver(name: str, joined: bool) -> None:
    text, value = SAMPLES[name]
    words = said(name, text, joined)
    if name == "join":
        options, _ = parse(words)
        assert options == Options(join=value, hold=True, register=False)
        assert "runs no driver: train.py" in refused(*words, "train.py").what
        return
    options, driver = parse([*words, "train.py", *DRIVERS_OWN])
    assert options == dataclasses.replace(Options(), **{name: value})
    assert driver == ["train.py", *DRIVERS_OWN]


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_every_flag(name: str) -> None:
    options, driver = parse([flag(name)] if name == "hold" else [flag(name), "train.py", *DRIVERS_OWN])
    changed: dict[str, Any] = {name: True}
    assert options == dataclasses.replace(Options(), **changed)
    assert driver == ([] if name == "hold" else ["train.py", *DRIVERS_OWN])


def test_the_negative_of_a_flag() -> None:
    assert parse(["--dashboard", "--no-dashboard", "train.py"]) == (Options(), ["train.py"])
    assert parse(["--no-register", "train.py"]) == (Options(register=False), ["train.py"])


def test_all_options_at_once() -> None:
    alone = {"walltime", "deadline", "join"}  # two say the same thing; one takes no driver
    chosen = {name: SAMPLES[name] for name in SAMPLES if name not in alone}
    words = [word for name, (text, _) in chosen.items() for word in said(name, text)]
    options, driver = parse([*words, "--one-per-host", "train.py"])
    expected = {name: value for name, (_, value) in chosen.items()}
    assert options == dataclasses.replace(Options(), one_per_host=True, **expected)
    assert driver == ["train.py"]


def test_a_repeatable_option_keeps_its_order() -> None:
    options, _ = parse(["--ray-arg", "--a", "--ray-arg=--b=--c d", "x"])
    assert options.ray_arg == ("--a", "--b=--c d")


@pytest.mark.parametrize(
    ("words", "driver"),
    [
        (["train.py"], ["train.py"]),
        (["-m", "package.module", "-m", "x"], ["-m", "package.module", "-m", "x"]),
        (["--", "--odd-name", "a"], ["--odd-name", "a"]),
        (["--", "--", "a"], ["--", "a"]),
        (["train.py", "--", "a"], ["train.py", "--", "a"]),
        (["python", "-m", "x"], ["python", "-m", "x"]),
        (["-"], ["-"]),
        ([""], [""]),
    ],
)
@pytest.mark.parametrize("ours", [[], ["--num-cpus", "2"], ["--num-cpus=2", "--one-per-host"]])
def test_where_the_driver_begins(ours: list[str], words: list[str], driver: list[str]) -> None:
    assert split([*ours, *words]) == (ours, driver)


def test_a_hostile_driver(hostile: str) -> None:
    words = ["--", hostile, hostile] if hostile.startswith("-") else [hostile, hostile]
    assert parse(["--logs", "never", *words])[1] == [hostile, hostile]


@given(st.sampled_from([[], ["--num-cpus", "2"], ["--dashboard"]]), st.lists(st.text(max_size=8)))
def test_no_word_after_the_driver_is_ours(ours: list[str], rest: list[str]) -> None:
    assert split([*ours, "train.py", *rest]) == (ours, ["train.py", *rest])
    assert split([*ours, "--", "-x", *rest]) == (ours, ["-x", *rest])
    assert split([*ours, "-m", "x", *rest]) == (ours, ["-m", "x", *rest])


def test_a_value_may_look_like_an_option_or_a_driver() -> None:
    assert split(["--ray-arg", "--hold", "--run-dir", "train.py", "x.py"])[1] == ["x.py"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--num-cpu", "4", "train.py"], "--num-cpus"),
        (["--one-per-hosts", "train.py"], "--one-per-host"),
        (["--walltme=10", "train.py"], "--walltime"),
        (["--dashbord", "train.py"], "--dashboard"),
    ],
)
def test_a_misspelt_option_is_refused_with_a_suggestion(words: list[str], expected: str) -> None:
    fault = refused(*words)
    assert words[0].partition("=")[0] in fault.what
    assert expected in fault.what
    assert "--help" in fault.next_step


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--no-such-thing-at-all", "train.py"], "--no-such-thing-at-all"),
        (["-x", "train.py"], "-x"),
        (["--num-cpus", "many", "train.py"], "--num-cpus"),
        (["--num-cpus", "-1", "train.py"], "--num-cpus"),
        (["--port", "65536", "train.py"], "--port"),
        (["--logs", "sometimes", "train.py"], "'always', 'failure', 'never'"),
        (["--hold=yes"], "--hold"),
        (["--num-cpus"], "--num-cpus"),
        (["--memory", "much", "train.py"], "--memory: 'much' is no size"),
        (["--object-store-memory", "-1", "train.py"], "--object-store-memory"),
        (["--walltime", "1h", "train.py"], "--walltime: '1h' is no duration"),
        (["--walltime", "10", "--deadline", "1800000000", "train.py"], "give one"),
        (["--resources", "{", "train.py"], "--resources"),
        (["--labels", "a", "train.py"], "--labels"),
        (["--ray-arg", "--head", "train.py"], "--ray-arg --head"),
        ([], "no driver was named"),
        (["--"], "no driver was named"),
        (["--num-cpus", "2"], "no driver was named"),
        (["--hold", "train.py"], "--hold keeps a cluster without a driver: train.py"),
        (["-m"], "-m names no module"),
        (["-m", ""], "-m names no module"),
        (["--num-cpus", "2", "-m", "", "x"], "-m names no module"),
        (["--hold", "--", "x"], "--hold keeps a cluster without a driver"),
    ],
)
def test_refused(words: list[str], expected: str) -> None:
    assert expected in refused(*words).what


# Nonsense that would otherwise be met on every rank (ipaddress raises, Ray refuses, nan is never reached).
@pytest.mark.parametrize(
    "words",
    [
        ["--interface", "10.0.0.0/99"],
        ["--interface", "hsn0/24"],
        ["--object-store-memory", "1M"],
        ["--timeout", "nan"],
        ["--deadline", "nan"],
        ["--grace", "nan"],
    ],
    ids=" ".join,
)
def test_what_cannot_work_anywhere_is_refused(words: list[str]) -> None:
    assert words[0] in refused(*words, "train.py").what


def test_hold_needs_no_driver() -> None:
    assert parse(["--hold", "--logs", "never"]) == (Options(hold=True, logs="never"), [])


# Help.


def help_text(capsys: pytest.CaptureFixture[str], word: str = "--help") -> str:
    with pytest.raises(click.exceptions.Exit) as caught:
        parse([word])
    assert caught.value.exit_code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_in_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "".join(help_text(capsys).split())
    text = FIELDS[name].metadata["help"]
    assert text.endswith(".")
    assert flag(name) in shown
    assert "".join(text.split()) in shown


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if "choices" in field.metadata])
def test_the_help_names_the_choices(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{flag(name)} [{'|'.join(FIELDS[name].metadata['choices'])}]" in help_text(capsys)


def test_the_help_says_what_the_driver_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Its standard input is empty" in " ".join(help_text(capsys).split())


def test_the_help_is_as_wide_as_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_text(capsys, "-h")
    assert max(map(len, shown.splitlines())) <= 100
    assert "[OPTIONS] DRIVER [ARGUMENTS OF THE DRIVER]..." in shown
    assert "mpirun -np 4 python -m rayhpc.start train_ppo.py" in shown


def test_help_of_the_driver_is_the_drivers(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["train.py", "--help"])[1] == ["train.py", "--help"]
    assert capsys.readouterr().out == ""


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_text(capsys, "--version") == f"rayhpc {rayhpc.__version__}\n"


def test_defaults_are_shown_where_they_say_something(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.sub(r"\s+", " ", help_text(capsys))
    assert "[default: rayhpc-runs]" in shown
    assert "default: None" not in shown


def test_the_default_command_line_is_the_default_of_the_data() -> None:
    assert parse(["x"])[0] == Options()


@pytest.mark.parametrize("name", FIELDS)
def test_fields_say_enough(name: str) -> None:
    details = FIELDS[name].metadata
    known = {"help", "metavar", "choices", "minimum", "maximum", "multiple", "off", "bare"}
    assert set(details) <= known
    shown = details.get("metavar", "")
    assert HINTS[name] is bool or "choices" in details or shown.isupper() or "|" in shown
    assert not ("choices" in details and shown)  # the help would not name them
    assert FIELDS[name].default in details.get("choices", (FIELDS[name].default,))


# The environment.


@pytest.mark.parametrize("name", SAMPLES)
def test_every_option_by_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = SAMPLES[name]
    monkeypatch.setenv(f"RAYHPC_{name.upper()}", text)
    if name == "join":
        assert parse([])[0].join == value
        return
    assert parse(["x"])[0] == dataclasses.replace(Options(), **{name: value})


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("0", False), ("no", False), ("", False)])
def test_a_flag_by_its_variable(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_ONE_PER_HOST", text)
    assert parse(["x"])[0].one_per_host is value


def test_several_values_in_one_variable_are_divided_at_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_RAY_ARG", "--a --b=1")
    assert parse(["x"])[0].ray_arg == ("--a", "--b=1")


def test_the_command_line_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_NUM_CPUS", "3")
    assert parse(["--num-cpus", "4", "x"])[0].num_cpus == 4


def test_nonsense_in_a_variable_is_refused_by_the_options_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_NUM_CPUS", "many")
    assert "--num-cpus" in refused("x").what


# Module files set <NAME>_VERSION, and click reads RAYHPC_VERSION for --version unless it is told not to.
@pytest.mark.parametrize("value", ["0.1.0", "1"])
def test_a_sites_version_variable_is_no_option(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_VERSION", value)
    assert parse(["x"]) == (Options(), ["x"])


@pytest.mark.parametrize("name", ["HELP", "ROOT", "HOME", "DIR", "NODE", "RUN_ID"])
def test_other_variables_are_no_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"RAYHPC_{name}", "1")
    assert parse(["x"]) == (Options(), ["x"])


# A driver is told of its own run by RAYHPC_… variables: none of them may be an option of a run that it starts.
@pytest.mark.parametrize("words", [[], ["--walltime", "10"]])
def test_a_run_inside_a_driver_is_a_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = cluster(1, deadline=1.8e9)
    for name, value in environment.of_driver({}, assignment(spec), spec).items():
        monkeypatch.setenv(name, value)
    assert parse([*words, "x"])[0].run_dir == Options().run_dir


# As a process: exit codes and where the words go.


def started(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rayhpc.start", *words], capture_output=True, text=True, check=False)


def test_a_misspelt_option_ends_the_process_with_2(tmp_path: Path) -> None:
    done = started("--num-cpu", "4", "train.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--num-cpus" in done.stderr
    assert "exit code 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_ends_the_process_with_0() -> None:
    done = started("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--num-cpus" in done.stdout


def test_rayhpc_start_is_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def main(words: tuple[str, ...]) -> int:
        seen.append(words)
        return 7

    monkeypatch.setattr("rayhpc.start.main", main)
    done = CliRunner().invoke(cli.main, ["start", "--num-cpus", "4", "train.py", "--help", "--", "-x"])
    assert done.exit_code == 7
    assert seen == [("--num-cpus", "4", "train.py", "--help", "--", "-x")]


def test_the_login_command_names_itself_and_the_bootstrap() -> None:
    done = CliRunner().invoke(cli.main, ["--help"])
    assert done.exit_code == 0
    assert "python -m rayhpc.start --help" in done.output
    assert CliRunner().invoke(cli.main, ["--version"]).output == f"rayhpc {rayhpc.__version__}\n"
    assert CliRunner().invoke(cli.main, ["no-such-verb"]).exit_code == 2


def test_the_command_takes_options_alone() -> None:
    assert all(isinstance(parameter, click.Option) for parameter in command().params)
    assert units.size(SAMPLES["object_store_memory"][0]) == 2**33


@pytest.mark.parametrize(
    ("words", "check", "driver"),
    [
        (["--check"], "stop", []),
        (["--check", "t.py", "--check"], "stop", ["t.py", "--check"]),
        (["--check=stop", "--", "t.py"], "stop", ["t.py"]),
        (["--check", "--hold"], "stop", []),
        (["t.py"], "no", ["t.py"]),
    ],
)
def test_a_check_needs_no_driver_and_takes_none_for_its_value(words: list[str], check: str, driver: list[str]) -> None:
    options, found = parse(words)
    assert (options.check, found) == (check, driver)
