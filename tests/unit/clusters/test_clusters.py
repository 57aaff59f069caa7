"""`rayhpc cluster …` as a user types it: entries as runs make them, ports that really listen, a scheduler's words."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from rayhpc.cli.main import main
from rayhpc.clusters import sight, stop, tunnel
from rayhpc.clusters.liveness import FRESH_SECONDS
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.model import ClusterEntry
from rayhpc.records import registry
from rayhpc.records.registration import Registration
from tests.unit.batch_fakes import Login, login_node
from tests.unit.making import code_of, entry, until

OLD = FRESH_SECONDS + 400


@pytest.fixture(autouse=True)
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """A login node with a registry of its own and no scheduler."""
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(stop, "_PAUSE_SECONDS", 0.01)
    return login_node(tmp_path, monkeypatch)


@pytest.fixture
def listening() -> Iterator[str]:
    """HOST:PORT of a head that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> Iterator[str]:
    """HOST:PORT that is nobody's and stays so."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def added(number: int, age: float = 0.0, **changes: Any) -> ClusterEntry:
    """An entry whose heartbeat is so many seconds old; a larger number is a newer run."""
    made = entry(**{"id": f"20261121-094408-{number:08x}", "started_at": 1795254248.0 + number, **changes})
    registry.add(made, "s3cret")
    at = time.time() - age
    os.utime(registry.directory(made.id) / "heartbeat", (at, at))
    return made


def cluster(*words: str) -> Result:
    return CliRunner().invoke(main, ["cluster", *words])


def process(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for what becomes another program."""
    argv = [sys.executable, "-m", "rayhpc", "cluster", *words]
    environ = {**os.environ, **variables}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)


def table(done: Result) -> list[list[str]]:
    return [line.split("\t") for line in done.stdout.splitlines()]


# ------------------------------------------------------------------------------------------------------------- list


def test_list(listening: str, closed: str) -> None:
    added(1, address=listening, command=("python", "two words", "new\nline"))
    added(2, OLD, address=closed, gpus=2.0)
    added(3, OLD, address=listening)
    done = cluster("list")
    assert (done.exit_code, done.stderr) == (0, "")
    header, *rows = table(done)
    assert header == ["ID", "STATE", "NODES", "CPUS", "GPUS", "HEAD", "JOB", "SINCE", "COMMAND"]
    assert [row[:6] for row in rows] == [
        ["20261121-094408-00000001", "alive", "2", "4", "0", "a"],
        ["20261121-094408-00000002", "gone", "2", "4", "2", "a"],
        ["20261121-094408-00000003", "unknown", "2", "4", "0", "a"],
    ]
    assert [row[8] for row in rows] == ["python 'two words' 'new\\nline'", "(held)", "(held)"]


def test_list_for_programs_has_no_secret(listening: str) -> None:
    made = added(1, address=listening)
    done = cluster("list", "--json")
    (found,) = json.loads(done.stdout)
    assert (found["id"], found["address"], found["state"], found["command"]) == (made.id, listening, "alive", [])
    assert found["heartbeat_age"] < 60
    assert Path(found["token_file"]).read_text() == "s3cret"
    assert "s3cret" not in done.output


def test_nothing_to_list() -> None:
    assert (cluster("list").exit_code, len(table(cluster("list")))) == (0, 1)
    assert json.loads(cluster("list", "--json").stdout) == []


@pytest.mark.parametrize("columns", ["100", "60"])
def test_a_table_of_100_columns(listening: str, columns: str) -> None:
    """On a terminal the ids, which are copied, stay whole."""
    made = added(
        1, address=listening, batch_job_id="1234567", scheduler="", command=("python", "train.py", "--lr", "3e-4" * 9)
    )
    script = f"{shlex.quote(sys.executable)} -m rayhpc cluster list"
    done = subprocess.run(
        ["script", "-qec", script, "/dev/null"], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "COLUMNS": columns, "TERM": "xterm", "PATH": os.defpath},
    )  # fmt: skip
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
    assert re.match(f" {made.id}  alive .* python train.py ?$", lines[1].rstrip()), done
    assert max(len(line.rstrip()) for line in lines) <= 100


def test_each_scheduler_is_asked_once(login: Login, closed: str) -> None:
    login.fake("squeue", 'for id in 17 18; do echo "$id|RUNNING|0|None|"; done; echo "19|TIMEOUT|0|None|"')
    for number, job_id in enumerate(("17", "18", "19")):
        added(number, OLD, address=closed, scheduler="slurm", batch_job_id=job_id)
    added(9, address=closed, scheduler="unheard of", batch_job_id="1")
    done = cluster("list", "--json")
    assert done.stderr == ""
    whys = [found["why"].partition(",")[0] for found in json.loads(done.stdout)]
    assert whys == ["its port is closed", "its port is closed", "its job has ended (TIMEOUT)", "its port is closed"]
    assert len(login.calls("squeue")) == 1


def test_a_scheduler_that_is_away_is_no_witness(listening: str) -> None:
    added(1, address=listening, scheduler="slurm", batch_job_id="17")
    done = cluster("list")
    assert done.exit_code == 0
    assert table(done)[1][1] == "alive"
    (line,) = done.stderr.splitlines()
    assert line == "WARNING: squeue cannot be run: No such file or directory: the states of its jobs are not known"


def test_many_dead_ports_are_knocked_at_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port whose queue is full answers nobody, as a host that is cut off."""
    monkeypatch.setattr(sight, "_KNOCK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        address = deaf.getsockname()
        queued = [socket.socket() for _ in range(4)]
        for one in queued:
            one.setblocking(False)
            one.connect_ex(address)
        for number in range(20):
            added(number, OLD, address=f"127.0.0.1:{address[1]}")
        began = time.monotonic()
        states = [row[1] for row in table(cluster("list"))[1:]]
        for one in queued:
            one.close()
    assert states == ["unknown"] * 20
    assert time.monotonic() - began < 8


# ---------------------------------------------------------------------------------------------------- show, address


def test_show(listening: str) -> None:
    made = added(
        1, address=listening, dashboard="http://10.0.0.1:8000", tls=True, deadline=1795260000.0, batch_job_id="17",
        scheduler="unheard of", command=("./driver", "-x"),
    )  # fmt: skip
    lines = dict(line.split(maxsplit=1) for line in cluster("show").stdout.splitlines())
    assert lines["cluster"] == made.id
    assert lines["state"].startswith("alive: heard of ")
    assert lines["size"] == "2 nodes, 4 CPUs, 0 GPUs"
    assert lines["address"] == listening
    assert lines["dashboard"] == "http://10.0.0.1:8000"
    assert lines["job"] == "17 (unheard of)"
    assert lines["driver"] == "./driver -x"
    assert lines["token"] == f"{registry.token_file(made)}, with a certificate (TLS)"
    assert set(lines) >= {"since", "until", "run", "head"}
    assert json.loads(cluster("show", "17", "--json").stdout)["id"] == made.id


def test_address_is_alone_on_standard_output() -> None:
    added(1, address="10.0.0.1:1")
    added(2, address="10.0.0.2:2")
    assert cluster("address").stdout == "10.0.0.2:2\n"
    assert cluster("address", "00000001").stdout == "10.0.0.1:1\n"


@pytest.mark.parametrize("verb", ["show", "address", "attach", "tunnel", "stop", "forget"])
def test_what_there_is_not_is_told(verb: str) -> None:
    for known, sentence in ((False, "no cluster is registered"), (True, "there is no cluster nowhere")):
        if known:
            added(1)
        done = cluster(verb, "nowhere")
        assert (done.exit_code, done.stdout) == (78, "")
        assert sentence in done.stderr
        assert "next: " in done.stderr


# ----------------------------------------------------------------------------------------------------------- attach


PRINT = "import json, os; print(json.dumps(dict(os.environ)))"


def test_attach_runs_a_command(listening: str) -> None:
    made = added(1, address=listening, dashboard="http://127.0.0.1:8000")
    foreign = {"RAY_ADDRESS": "10.9.9.9:1", "RAY_AUTH_TOKEN": "foreign", "RAY_NAMESPACE": "foreign", "KEPT": "kept"}
    done = process("attach", "--", sys.executable, "-c", PRINT, **foreign, http_proxy="http://proxy:1")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    wanted = {
        "RAY_ADDRESS": listening, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(registry.token_file(made)),
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8000", "KEPT": "kept", "no_proxy": "localhost,127.0.0.1,127.0.0.1",
    }  # fmt: skip
    assert {name: got.get(name) for name in wanted} == wanted
    assert {"RAY_AUTH_TOKEN", "RAY_NAMESPACE", "RAY_USE_TLS"}.isdisjoint(got)
    (line,) = done.stderr.splitlines()
    there = "ray.init() works on the cluster's hosts only (a); elsewhere: rayhpc job submit"
    assert line == f"{made.id} at {listening}; {there}"


def test_attach_knows_the_certificate(listening: str) -> None:
    made = added(1, address=listening, tls=True)
    got = json.loads(process("attach", made.id, "--", sys.executable, "-c", PRINT).stdout)
    place = registry.directory(made.id)
    assert (got["RAY_USE_TLS"], got["RAY_TLS_SERVER_CERT"]) == ("1", f"{place}/tls.crt")
    assert "RAY_API_SERVER_ADDRESS" not in got


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "ulimit -S -c"], 0, "0\n"),
        (["sh", "-c", "kill -9 $$"], -9, ""),  # no process of ours is left in between
        (["printf", "%s|", "--json", "--", "-x", "two words", ""], 0, "--json|--|-x|two words||"),
        (["no-such-program"], 127, ""),
        (["/"], 126, ""),
    ],
)
def test_attach_ends_as_the_command(listening: str, words: Sequence[str], code: int, output: str) -> None:
    added(1, address=listening)
    done = process("attach", "--", *words, PATH=os.defpath)
    assert (done.returncode, done.stdout) == (code, output), done.stderr
    assert ("next: " in done.stderr) == (code in (126, 127))


def test_attach_without_a_command_is_the_users_shell(listening: str, login: Login) -> None:
    added(1, address=listening)
    login.fake("myshell", 'echo "shell $# $RAY_ADDRESS"; exit 3')
    done = process("attach", SHELL=str(login.bin / "myshell"))
    assert (done.returncode, done.stdout) == (3, f"shell 0 {listening}\n")


def test_attach_refuses_what_is_gone(closed: str) -> None:
    made = added(1, OLD, address=closed)
    done = process("attach", "--", "echo", "reached")
    assert (done.returncode, done.stdout) == (78, "")
    assert f"the cluster {made.id} is gone: its port is closed" in done.stderr
    assert f"rayhpc cluster forget {made.id}" in done.stderr


# ----------------------------------------------------------------------------------------------------------- tunnel


def test_tunnel_prints_a_command() -> None:
    made = added(1, dashboard="http://10.0.0.1:23456")
    done = cluster("tunnel", "--via", "ada@login1.example.org")
    command = "ssh -N -o ExitOnForwardFailure=yes -L 8265:10.0.0.1:23456 ada@login1.example.org"
    assert (done.exit_code, done.stdout) == (0, f"{command}\n")
    assert "  dashboard: http://localhost:8265\n" in done.stderr
    assert f"cat {registry.token_file(made)}" in done.stderr
    assert "s3cret" not in done.output


def test_tunnel_to_the_metrics_ends_on_the_heads_host() -> None:
    """Its Prometheus, and a Grafana beside it, listen there on loopback."""
    made = entry(dashboard="http://10.0.0.1:8265", metrics="http://127.0.0.1:4711")
    plan = tunnel.plan_tunnel(made, "login1", [("Prometheus", 9090), ("Grafana", 3000)])
    forwards = [word for before, word in itertools.pairwise(plan.argv) if before == "-L"]
    assert forwards == ["8265:10.0.0.1:8265", "9090:127.0.0.1:4711", "3000:127.0.0.1:3000"]
    assert plan.argv[-3:] == ("-J", "login1", made.host)
    assert [name for name, _ in plan.pages] == ["dashboard", "Prometheus", "Grafana"]


def test_tunnel_to_what_watches_the_cluster() -> None:
    added(1, address="[fd00::1]:20001", dashboard="http://[fd00::1]:23456")
    words = shlex.split(cluster("tunnel", "--via", "login1", "--prometheus", "--grafana").stdout)
    forwards = [words[place + 1] for place, word in enumerate(words) if word == "-L"]
    assert forwards == ["8265:[fd00::1]:23456", "9090:[fd00::1]:9090", "3000:[fd00::1]:3000"]
    added(2)
    words = shlex.split(cluster("tunnel", "--grafana").stdout)
    assert (words[-2], words[-1]) == ("3000:10.0.0.1:3000", f"{registry.account()}@{os.uname().nodename}")


def test_no_dashboard_is_told() -> None:
    added(1)
    done = cluster("tunnel")
    assert (done.exit_code, done.stdout) == (78, "")
    assert "start it with --dashboard" in done.stderr


@pytest.mark.parametrize("via", ["", "-oProxyCommand=touch x", "ada@"])
def test_a_login_node_that_is_none_is_refused(via: str) -> None:
    with pytest.raises(RayhpcError, match="is no ") as caught:
        tunnel.plan_tunnel(entry(dashboard="http://a:1"), via)
    assert code_of(caught.value) == ExitCode.USAGE


def test_open_runs_it(login: Login) -> None:
    added(1, dashboard="http://10.0.0.1:23456")
    login.fake("ssh", "exit 5")
    done = process("tunnel", "--via", "login1", "--open")
    assert (done.returncode, done.stdout) == (5, "")
    assert login.calls("ssh") == [
        ["-N", "-o", "ExitOnForwardFailure=yes", "-L", "8265:10.0.0.1:23456", "login1"],
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- stop


class Run:
    """A run that ends as soon as it is asked, and writes how."""

    def __init__(self, made: ClusterEntry, place: Path) -> None:
        self.entry = made
        self._record = place
        self._thread = threading.Thread(target=self._obey)
        self._thread.start()

    def _obey(self) -> None:
        if until(lambda: registry.stops(self.entry), 30):
            self._record.mkdir()
            (self._record / "outcome.json").write_text('{"cause": "ended by SIGTERM", "code": 0}')
            registry.forget(self.entry)

    def join(self) -> None:
        self._thread.join()


def running(tmp_path: Path, number: int) -> Run:
    place = tmp_path / f"run{number}"
    return Run(added(number, run_dir=str(place)), place)


def test_stop_waits_and_says_how_it_ended(tmp_path: Path) -> None:
    run = running(tmp_path, 1)
    done = cluster("stop", "--timeout", "30")
    run.join()
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{run.entry.id}  ended by SIGTERM; exit code 0\n"


def test_stop_several_one_of_them_twice(tmp_path: Path) -> None:
    runs = [running(tmp_path, number) for number in (1, 2)]
    done = cluster("stop", "00000001", "00000002", "00000001")
    for run in runs:
        run.join()
    assert done.exit_code == 0, done.output
    assert sorted(done.stderr.splitlines()) == [f"{run.entry.id}  ended by SIGTERM; exit code 0" for run in runs]


def test_stop_without_an_id_ends_the_only_one_or_none() -> None:
    one, two = added(1), added(2)
    done = cluster("stop", "--no-wait")
    assert done.exit_code == 78
    assert "several clusters run: say which to end" in done.stderr
    assert (registry.stops(one), registry.stops(two)) == ((), ())
    registry.forget(two)
    assert cluster("stop", "--no-wait").exit_code == 0
    (who,) = registry.stops(one)
    assert who == f"{registry.account()} on {os.uname().nodename}"


def test_one_wrong_id_asks_nobody() -> None:
    made = added(1)
    assert cluster("stop", "00000001", "nowhere").exit_code == 78
    assert registry.stops(made) == ()


def test_a_run_that_does_not_end_in_time_is_told(listening: str) -> None:
    made = added(1, address=listening, batch_job_id="17", scheduler="pbs")
    done = cluster("stop", "--timeout", "0.05")
    assert done.exit_code == 78
    assert f"the cluster {made.id} has not ended within 0.05 s" in done.stderr
    assert "its job is 17 (pbs)" in done.stderr


def test_a_run_that_is_gone_is_not_waited_for(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_GLANCE_SECONDS", 0.0)
    made = added(1, OLD, address=closed)
    done = cluster("stop", "--timeout", "100")
    assert done.exit_code == 78
    assert f"the cluster {made.id} is gone and cannot answer" in done.stderr
    assert f"rayhpc cluster forget {made.id}" in done.stderr


def test_a_run_whose_record_cannot_be_read() -> None:
    assert stop.ended(entry(run_dir="/nowhere")) == "has ended; how, /nowhere does not say"


def test_a_run_that_ended_meanwhile_is_no_fault() -> None:
    gone = entry(run_dir="/nowhere")
    told: list[str] = []
    stop.ask_to_stop([gone])
    stop.wait_until_stopped([gone], 1.0, told.append)
    assert len(told) == 1


# ----------------------------------------------------------------------------------------------------------- forget


def test_forget_takes_what_is_gone(closed: str) -> None:
    gone, kept = added(1, OLD, address=closed), added(2)
    done = cluster("forget", gone.id)
    assert (done.exit_code, done.stderr) == (0, f"{gone.id} forgotten\n")
    assert registry.every() == [kept]


def test_forget_refuses_what_may_be_alive(listening: str, closed: str) -> None:
    gone, alive = added(1, OLD, address=closed), added(2, address=listening)
    unknown = added(3, OLD, address=listening)
    for made in (alive, unknown):
        done = cluster("forget", gone.id, made.id)
        assert done.exit_code == 78
        assert f"the cluster {made.id} is not known to be gone" in done.stderr
    assert len(registry.every()) == 3
    assert cluster("forget", "--force", alive.id).exit_code == 0
    assert registry.every() == [gone, unknown]


def test_forget_all_that_are_gone(listening: str, closed: str) -> None:
    added(1, OLD, address=closed)
    alive, unknown = added(2, address=listening), added(3, OLD, address=listening)
    added(4, OLD, address=closed)
    assert cluster("forget", "--gone").exit_code == 0
    assert registry.every() == [alive, unknown]
    assert cluster("forget", "--gone").stderr == "nothing to forget\n"


@pytest.mark.parametrize("words", [[], ["--gone", "x"], ["--gone", "--force"], ["--force"]])
def test_forget_wants_to_be_told_what(words: list[str]) -> None:
    added(1)
    assert cluster("forget", *words).exit_code == 2
    assert len(registry.every()) == 1


def test_what_is_forgotten_while_runs_register_is_only_what_is_gone(tmp_path: Path, closed: str) -> None:
    """Entries come and go while others are looked for: none of the living is lost."""
    runs = [Registration(entry(id=f"20261121-100000-{number:08x}"), "s", None, print) for number in range(8)]
    for number in range(8):
        added(number, OLD, address=closed)
    while len(registry.every()) != 8 or not all(found.id.startswith("20261121-10") for found in registry.every()):
        assert cluster("forget", "--gone").exit_code == 0
    assert [problem for run in runs for problem in run.close()] == []
    assert registry.every() == []


# ------------------------------------------------------------------------------------------------------------ as all


def test_every_command_has_its_help() -> None:
    made = main.commands["cluster"]
    assert isinstance(made, click.Group)
    assert list(made.commands) == ["list", "show", "metrics", "address", "attach", "tunnel", "stop", "forget", "check"]
    for name in made.commands:
        done = cluster(name, "--help")
        assert done.exit_code == 0
        assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert "[ID] [-- COMMAND...]" in cluster("attach", "--help").stdout
