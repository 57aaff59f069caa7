"""`rayhpc cluster check` where nobody answers, and what it makes of what is found; `rayhpc job submit --config`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rayhpc.cli import main
from rayhpc.cli.check import Checked, _verdict
from rayhpc.clusters.probe.node_probe import MARK
from rayhpc.clusters.probe.run import _report
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.finding import fail
from rayhpc.host import network
from rayhpc.jobs.ray_api import Job, Server
from rayhpc.records import registry
from tests.unit.clusters.probe.test_findings import node
from tests.unit.making import entry


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


def test_clusters_that_do_not_answer(state: Path) -> None:
    """One without a job API, one whose dashboard is gone: both are told, and the table is there all the same."""
    closed = f"http://127.0.0.1:{network.free_port('127.0.0.1')}"
    registry.add(entry(id="20261121-094408-0000aaaa"), "token")
    registry.add(entry(id="20261121-094409-0000bbbb", dashboard=closed, address=closed.partition("//")[2]), "token")
    done = run("cluster", "check")
    assert done.exit_code == ExitCode.CONFIGURATION
    assert done.stdout.splitlines() == ["CLUSTER\tRANK\tHOST\tCPUS\tGPUS\tPYTHON\tRAY\tTORCH\tDISK\tSHM\tMB/S"]
    assert "cluster 20261121-094408-0000aaaa takes no jobs: it runs without --dashboard" in done.stderr
    assert "cluster 20261121-094409-0000bbbb is gone" in done.stderr
    found = json.loads(run("cluster", "check", "bbbb", "--json").stdout)
    assert [(each["cluster"], len(each["faults"])) for each in found] == [("20261121-094409-0000bbbb", 1)]


def test_no_cluster_at_all(state: Path) -> None:
    for words in ((), ("nosuch",)):
        done = run("cluster", "check", *words)
        assert done.exit_code == ExitCode.CONFIGURATION
        assert "rayhpc: " in done.stderr
    assert run("cluster", "check", "--num-jobs", "0").exit_code == ExitCode.USAGE


WELL = Checked("run", (node(), node(1)), (), (2.0, 3.5), ())


def test_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert _verdict([WELL]) == 0
    assert capsys.readouterr().err == "rayhpc cluster check: 2 nodes, 2 probes in 2 to 3.5 s: all is well\n"
    fault = Fault("cluster b is gone", ExitCode.CONFIGURATION)
    lost = fail("1 of 2 nodes are alive", next_step="look")
    full = replace(fail("the disk is full", next_step="clear it"), id="temp-dir")
    bad = replace(WELL, findings=(lost, *(replace(full, where=f"rank {n} on h{n}") for n in range(30))))
    assert _verdict([bad, replace(WELL, faults=(fault,))]) == 78
    told = capsys.readouterr().err
    assert "cluster b is gone" in told
    assert "1 of 2 nodes are alive  [run]\n      next: look\n" in told
    assert "fail  temp-dir: the disk is full  [rank 0 on h0 of run, rank 1 on h1 of run, rank 2 on h2 of run" in told
    assert told.endswith("rayhpc cluster check: 4 nodes, 4 probes in 2 to 3.5 s: 2 failures; exit code 78\n")


def test_the_report_is_one_line_of_the_log() -> None:
    server, job = Server("c", "http://x", Path("t")), Job("j", "c", "ada", "FAILED", 1.0, 2.0, "x", 1, "")
    assert _report(server, job, f"noise\n{MARK}[]\n{MARK}[{{}}]\nmore") == [{}]
    with pytest.raises(RayhpcError, match="cluster c: the probe found nothing: FAILED, exit code 1") as caught:
        _report(server, job, "".join(f"line {n}\n\n" for n in range(9)))
    assert caught.value.fault.evidence == tuple(f"line {n}" for n in range(4, 9))


# A job's file.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / ".env").write_text("TOKEN=s3cret\n")
    (tmp_path / "job.yaml").write_text(
        "command: echo s3cret  # somebody copied it\n"
        "working_dir: /tmp\n"
        "environment: {A: x y, KEY: '${TOKEN}', OLD: s3cret.old}\n"
        "resources: {num_cpus: 2}\n"
    )
    return tmp_path / "job.yaml"


def test_a_dry_run_needs_no_cluster_and_shows_no_secret(state: Path, file: Path) -> None:
    done = run("job", "submit", "--config", file, "--dry-run", "--num-gpus", "1")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "resource     num_cpus: 2",
        "resource     num_gpus: 1.0",
        "environment  A='x y'",
        "environment  KEY=***",
        "environment  OLD=***.old",
        "--- the script",
        *["set +f", "unset IFS", "set -e", '. "$rayhpc_job/secrets.sh"', "cd -- /tmp", "set +e", "echo ***"],
    ]


def test_a_dry_run_for_each_cluster(state: Path, file: Path) -> None:
    done = run("job", "submit", "--config", file, "--dry-run", "--each", "--", "one 1", "two 2")
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line in ("one 1", "two 2")] == ["one 1", "two 2"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "there is no command and no --config"),
        (("--config", "job.yaml", "x"), "--config is in place of a command"),
        (("--config", "job.yaml", "x", "--", "y"), "--config is in place of a command"),
        (("--env", "1X=2", "--", "x"), "--env '1X' is no name of a variable"),
        (("--env", "NOT_SET_HERE", "--", "x"), "--env NOT_SET_HERE: it is not set here"),
        (("--env-file", "x", "--", "x"), "--env-file is for --config"),
        (("--each", "--config", "job.yaml"), "--each names no command\n"),
    ],
)
def test_words_that_do_not_go_together(state: Path, words: tuple[str, ...], what: str) -> None:
    done = run("job", "submit", *words)
    assert done.exit_code == ExitCode.USAGE
    assert f"rayhpc: {what}" in done.stderr


def test_arguments_behind_the_file_go_to_its_script(state: Path) -> None:
    (state / "train.py").touch()
    (state / "job.yaml").write_text("script: train.py\nargs: [--lr, 3]\n")
    done = run("job", "submit", "--dry-run", "--config", state / "job.yaml", "--", "--task", "reach v0", "--", "-x")
    assert done.stdout.splitlines()[-1] == "python ./train.py --lr 3 --task 'reach v0' -- -x"
    (state / "job.yaml").write_text("command: ls\n")
    done = run("job", "submit", "--dry-run", "--config", state / "job.yaml", "--", "--task", "reach-v0")
    assert done.exit_code == ExitCode.CONFIGURATION
    assert "job.yaml:1: a command takes no arguments of the command line: say script in its place" in done.stderr


@pytest.mark.parametrize("how", [[], ["--all"], ["--each"]])
def test_words_are_read_by_one_rule(state: Path, how: list[str]) -> None:
    """One word is a line for the shell, as with --each, where each is a job of its own."""
    done = run("job", "submit", "--dry-run", *how, "--", "echo hi; hostname")
    assert done.stdout.splitlines()[-1] == "echo hi; hostname"
    done = run("job", "submit", "--dry-run", *how, "--", "echo", "a b")
    assert done.stdout.splitlines()[-1] == ("a b" if how == ["--each"] else "echo 'a b'")


def test_secrets_are_known_by_their_names_wherever_they_come_from(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "exported-secret")
    monkeypatch.setenv("OPEN", "seen")
    (state / "job.yaml").write_text(
        "command: echo exported-secret\nenvironment: {A: 'x${WANDB_API_KEY}', DB_PASSWORD: literal-one, B: '${OPEN}'}\n"
    )
    words = ["--config", state / "job.yaml", "--env", "HF_TOKEN=typed-secret", "--env", "WANDB_API_KEY", "--env", "C=4"]
    done = run("job", "submit", "--dry-run", *words)
    assert done.exit_code == 0, done.stderr
    assert not [word for word in ("exported-secret", "literal-one", "typed-secret") if word in done.stdout]
    shown = ["A=***", "DB_PASSWORD=***", "B=seen", "HF_TOKEN=***", "WANDB_API_KEY=***", "C=4"]
    assert [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("environment")] == shown
    done = run("job", "submit", "--dry-run", *words, "--not-secret", "HF_TOKEN", "--not-secret", "DB_PASSWORD")
    assert "HF_TOKEN=typed-secret" in done.stdout
    assert "DB_PASSWORD=literal-one" in done.stdout
    assert "exported-secret" not in done.stdout


def test_a_secret_of_the_shell_is_for_the_environment_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument is seen by everybody on the host."""
    monkeypatch.setenv("HF_TOKEN", "exported-secret")
    (state / "x.py").touch()
    (state / "job.yaml").write_text("script: x.py\nargs: ['${HF_TOKEN}']\n")
    done = run("job", "submit", "--dry-run", "--config", state / "job.yaml")
    assert done.exit_code == ExitCode.CONFIGURATION
    told = "job.yaml:2: an entry of args holds HF_TOKEN, a secret: only `environment` takes it; else: not_secret\n"
    assert told in done.stderr
    (state / "job.yaml").write_text("script: x.py\nargs: ['${HF_TOKEN}']\nnot_secret: [HF_TOKEN]\n")
    assert run("job", "submit", "--dry-run", "--config", state / "job.yaml").exit_code == 0


def test_a_file_is_refused_before_a_cluster_is_sought(state: Path, file: Path) -> None:
    file.write_text("comand: x\n")
    done = run("job", "submit", "--config", file)
    assert done.exit_code == ExitCode.CONFIGURATION
    assert f"    {file}:1: unknown key comand: is it command?\n" in done.stderr
