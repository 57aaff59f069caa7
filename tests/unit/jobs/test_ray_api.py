"""What Ray's job API may answer, from a real HTTP server: words that we do not know, refusals, silence, nonsense."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rayhpc.cli import main
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.jobs import find, follow, ray_api, stop, submit, targets, wait
from rayhpc.jobs.ray_api import Job, Server
from rayhpc.jobs.ray_client import Tail
from rayhpc.jobs.request import JobRequest
from rayhpc.jobs.targets import Choice
from rayhpc.records import registry
from tests.unit.making import code_of, entry

TOKEN = "s3cret-token"


@dataclass
class Dashboard:
    """A dashboard that answers as it is told. answers: path to (status, text); requests: what came."""

    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def tells(self, *jobs: dict[str, Any]) -> None:
        self.answers["/api/jobs/"] = (200, json.dumps(jobs))
        self.answers.update({f"/api/jobs/{job['submission_id']}": (200, json.dumps(job)) for job in jobs})


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    told = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            status, text = told.answers.get(self.path, (404, f"Job {self.path} does not exist"))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told.url = f"http://127.0.0.1:{server.server_port}"
        yield told
        server.shutdown()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture
def server(dashboard: Dashboard, token: Path) -> Server:
    return Server("mine", dashboard.url, token)


def row(job_id: str = "job-1", **changes: Any) -> dict[str, Any]:
    values = {
        "type": "SUBMISSION",
        "submission_id": job_id,
        "status": "RUNNING",
        "entrypoint": "cd x\nls",
        "message": "",
        "start_time": 1795279362670,
        "end_time": None,
        "metadata": {"user": "ada", "command": "ls"},
        "driver_exit_code": None,
    }
    return {**values, **changes}


def job(**changes: Any) -> Job:
    values = {"id": "j", "cluster": "c", "user": "ada", "status": "FAILED", "started_at": 1.0, "ended_at": 2.0}
    return Job(**{**values, "entrypoint": "ls", "code": None, "message": "", **changes})


def test_jobs_in_their_order_without_drivers_of_others(server: Server, dashboard: Dashboard) -> None:
    dashboard.tells(row("late", start_time=3000), row("early", start_time=1000), row(type="DRIVER", submission_id=None))
    assert [(found.id, found.started_at, found.entrypoint) for found in ray_api.every(server)] == [
        ("early", 1.0, "ls"),
        ("late", 3.0, "ls"),
    ]
    assert dashboard.requests == [("GET", "/api/jobs/", f"Bearer {TOKEN}")]


def test_a_job_of_another_client_has_no_user_and_its_own_entrypoint(server: Server, dashboard: Dashboard) -> None:
    dashboard.tells(row(metadata=None))
    (found,) = ray_api.every(server)
    assert (found.user, found.entrypoint) == ("", "cd x\nls")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"code": 7}, 7, "FAILED, exit code 7"),
        ({"code": -9}, 137, "FAILED, exit code 137"),
        ({"message": "no env\nmore"}, 1, "FAILED, exit code 1: no env"),
        ({"status": "SUCCEEDED", "code": 0}, 0, "SUCCEEDED, exit code 0"),
        ({"status": "STOPPED"}, 143, "STOPPED, exit code 143"),
    ],
)
def test_exit_codes(changes: dict[str, Any], code: int, words: str) -> None:
    assert (job(**changes).exit_code, job(**changes).words) == (code, words)


@pytest.mark.parametrize(
    ("answer", "what", "step"),
    [
        ((401, "Unauthorized"), "cluster mine refuses the token", "--token-file"),
        ((403, "Forbidden"), "cluster mine refuses the token", "--token-file"),
        ((500, "Traceback\nKeyError: 'x'"), "cluster mine gives no answer of Ray's job API", "start another cluster"),
        ((200, "<html>"), "cluster mine gives no answer of Ray's job API", "is a Ray dashboard's"),
        ((404, "Job x does not exist"), "cluster mine has no such job", "rayhpc job list"),
    ],
)
def test_refusals_have_four_parts(
    answer: tuple[int, str], what: str, step: str, server: Server, dashboard: Dashboard
) -> None:
    dashboard.answers["/api/jobs/x"] = answer
    with pytest.raises(RayhpcError, match=what) as error:
        ray_api.one(server, "x")
    assert code_of(error.value) is ExitCode.CONFIGURATION
    assert step in error.value.fault.next_step
    assert f"{dashboard.url}: HTTP {answer[0]}" in error.value.fault.evidence
    assert TOKEN not in error.value.fault.text()


def test_a_redirection_does_not_carry_the_token_away(server: Server, dashboard: Dashboard, token: Path) -> None:
    dashboard.answers["/api/version"] = (302, f"{dashboard.url}/elsewhere")
    with pytest.raises(RayhpcError, match="no answer of Ray's job API"):
        ray_api.probe(server)
    assert [path for _, path, _ in dashboard.requests] == ["/api/version"]


def test_a_proxy_is_not_asked(server: Server, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    dashboard.answers["/api/version"] = (200, "{}")
    ray_api.probe(server)
    assert len(dashboard.requests) == 1


def test_an_id_of_any_kind_stays_one_part_of_the_path(server: Server, dashboard: Dashboard) -> None:
    with pytest.raises(RayhpcError):
        ray_api.one(server, "../x?y=é")
    assert [path for _, path, _ in dashboard.requests] == ["/api/jobs/..%2Fx%3Fy%3D%C3%A9"]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_nobody_at_the_address(token: Path) -> None:
    with pytest.raises(RayhpcError, match="nobody answers at") as error:
        ray_api.probe(Server("x", f"http://{closed_port()}", token))
    assert "Connection refused" in error.value.fault.text()


def test_the_cluster_is_gone(token: Path) -> None:
    with pytest.raises(RayhpcError, match="cluster mine is gone, and its jobs with it") as error:
        ray_api.probe(Server("mine", f"http://{closed_port()}", token, closed_port()))
    assert "rayhpc cluster forget mine" in error.value.fault.next_step


def test_the_dashboard_alone_hangs(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is worth another try, which gives up in time."""
    monkeypatch.setattr(ray_api, "_ASK_SECONDS", 0.2)
    monkeypatch.setattr(wait, "_PATIENCE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        hung = Server("mine", f"http://{place}", token, place)
        began = time.monotonic()
        with pytest.raises(ray_api.Late, match="the dashboard of cluster mine does not answer, though"):
            wait.current_state(find.Found(hung, job()))
        assert 0.5 < time.monotonic() - began < 20
        assert silent.accept()


def test_a_dashboard_that_is_not_up_yet_is_waited_for(
    token: Path, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.answers["/api/version"] = (200, "{}")
    asked: list[str] = []

    def refused_twice(server: Server) -> dict[str, str]:
        asked.append(server.name)
        if len(asked) < 3:
            raise ray_api.silence(server, ConnectionRefusedError(111, "Connection refused"))
        return {}

    monkeypatch.setattr(ray_api, "authorization", refused_twice)
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        server = Server("mine", dashboard.url, token, f"127.0.0.1:{gcs.getsockname()[1]}")
        ray_api.until_ready(server)
        assert len(asked) == 3
        asked.clear()
        monkeypatch.setattr(ray_api, "_READY_SECONDS", 0.0)
        with pytest.raises(ray_api.Late):
            ray_api.until_ready(server)
        assert len(asked) == 1


def test_a_dashboard_that_has_ended_before_its_cluster(token: Path) -> None:
    """It is the first to go when a cluster ends: whoever waits shall ask again, and hear that the cluster is gone."""
    with socket.create_server(("127.0.0.1", 0)) as gcs, socket.create_server(("127.0.0.1", 0)) as closed:
        places = [f"127.0.0.1:{server.getsockname()[1]}" for server in (closed, gcs)]
        closed.close()
        with pytest.raises(ray_api.Late, match="does not answer, though the cluster runs"):
            ray_api.probe(Server("mine", f"http://{places[0]}", token, places[1]))


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"\xff\xfe", "no text")])
def test_a_token_that_cannot_be_read(content: bytes | None, why: str, dashboard: Dashboard, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content:
        file.write_bytes(content)
    with pytest.raises(RayhpcError, match=f"the token of mine cannot be read: {why}"):
        ray_api.probe(Server("mine", dashboard.url, file))
    assert dashboard.requests == []


def test_a_registered_cluster_takes_its_token_along(tmp_path: Path) -> None:
    """It has ended in order, a moment ago: its port may still be open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(RayhpcError, match="cluster mine is gone, and its jobs with it") as caught:
            ray_api.probe(Server("mine", f"http://{place}", tmp_path / "token", place))
    assert caught.value.fault.evidence == (f"{tmp_path / 'token'}: No such file or directory",)


def test_an_environment_without_rays_client(
    server: Server, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told at once, for a submission and for a live log; what asks only needs no client."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    dashboard.answers["/api/version"] = (200, "{}")
    dashboard.tells(row())
    (found,) = find.meant([server], ["job-1"])
    for use in (
        lambda: submit.submit_job(submit.Pair(server, JobRequest("ls")), "ada"),
        lambda: follow.follow_job(found, print),
    ):
        with pytest.raises(RayhpcError, match="this environment has no client of Ray's job API") as error:
            use()
        assert error.value.fault.next_step == "pip install 'rayhpc[dashboard]'"


def test_what_a_broken_live_log_did_not_bring_comes_from_the_whole_one(
    server: Server, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Tail):
        async def _copy(self) -> None:
            self._chunks.put("one\n")
            raise RuntimeError("WebSocket error")

    monkeypatch.setattr(follow, "Tail", Broken)
    dashboard.tells(row(status="SUCCEEDED", driver_exit_code=0))
    dashboard.answers["/api/jobs/job-1/logs"] = (200, json.dumps({"logs": "one\ntwo\n"}))
    written: list[str] = []
    assert follow.follow_job(find.meant([server], ["job-1"])[0], written.append).exit_code == 0
    assert "".join(written) == "one\ntwo\n"


def test_a_log_of_another_node_is_told(server: Server, dashboard: Dashboard) -> None:
    """As Ray answers for a job on a node that is not the first of its host."""
    head = "2026-11-21 10:00:00 INFO job_manager.py:568 -- Runtime env is setting up.\n"
    own = f"{head}Running entrypoint for job job-1: train.py\n"
    for code, text, lost in ((0, head, True), (0, own, False), (None, head, False), (0, "", True)):
        dashboard.tells(row(status="SUCCEEDED", driver_exit_code=code))
        warning = ray_api.lost_output(ray_api.one(server, "job-1"), text)
        assert ("has it as job-driver-job-1.log" in warning) == lost


# ------------------------------------------------------------------------------------------- which clusters, which job


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHPC_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def test_registered_clusters_in_their_order(state: Path) -> None:
    for number, dashboard in ((2, "http://b:2"), (1, "http://a:1"), (3, "")):
        registry.add(entry(id=f"run-{number}", dashboard=dashboard, started_at=float(number)), TOKEN)
    assert [(server.name, server.url, server.gcs) for server in targets.servers(Choice())] == [
        ("run-1", "http://a:1", "10.0.0.1:20001"),
        ("run-2", "http://b:2", "10.0.0.1:20001"),
    ]
    assert [server.name for server in targets.servers(Choice(cluster="2"))] == ["run-2"]
    with pytest.raises(RayhpcError, match="run-3 takes no jobs: it runs without --dashboard"):
        targets.servers(Choice(cluster="run-3"))
    assert targets.servers(Choice(address="http://b:2"))[0].token_file == registry.token_file(entry(id="run-2"))


def test_no_cluster_and_none_with_a_dashboard(state: Path) -> None:
    with pytest.raises(RayhpcError, match="no cluster is registered"):
        targets.servers(Choice())
    registry.add(entry(id="run-3"), TOKEN)
    with pytest.raises(RayhpcError, match="no registered cluster takes jobs"):
        targets.servers(Choice())


def test_addresses_of_clusters_that_are_not_registered(state: Path) -> None:
    Path(state, "file").write_text("# Cluster: left\nhttp://a:1\nb:6379\n")
    found = targets.servers(Choice(address_file=str(state / "file")))
    assert found == [Server("left", "http://a:1", None), Server("b:6379", "http://b:8265", None)]
    (made, _) = targets.servers(Choice(address_file=str(state / "file"), token_file="t"))
    assert made == Server("left", "http://a:1", Path("t"))
    with pytest.raises(RayhpcError, match="say the same thing") as error:
        targets.servers(Choice(cluster="x", address="http://a:1"))
    assert code_of(error.value) is ExitCode.USAGE


@pytest.mark.parametrize("status", [401, 403])
def test_without_a_token_none_is_sent_and_one_that_is_asked_for_is_told(status: int, dashboard: Dashboard) -> None:
    dashboard.tells(row())
    server = Server("other", dashboard.url, None)
    assert [found.id for found in ray_api.every(server)] == ["job-1"]
    assert dashboard.requests == [("GET", "/api/jobs/", "")]
    dashboard.answers["/api/jobs/"] = (status, "no")
    with pytest.raises(RayhpcError, match="cluster other asks for a token") as error:
        ray_api.every(server)
    assert "--token-file FILE" in error.value.fault.next_step


WORDS = [
    "10.0.0.1:20001", "http://10.0.0.1:20002", "10.0.0.1:20002", "http://10.0.0.1:20002/", "node1:20001",
    "http://node1.example.org:20002", "run-1", "4711", "left",
]  # fmt: skip


@pytest.fixture
def two(state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clusters, one of them on Kubernetes: run-2 is the newest. No ~/.ray_address."""
    monkeypatch.setenv("HOME", str(state))
    monkeypatch.delenv("RAYHPC_ADDRESS", raising=False)
    own = {"dashboard": "http://10.0.0.1:20002", "host": "node1.example.org", "batch_job_id": "4711"}
    registry.add(entry(id="run-1-left", started_at=1.0, **own), TOKEN)
    kube = {"address": "b-head-svc.ns.svc:6379", "dashboard": "http://127.0.0.1:3", "scheduler": "kuberay"}
    registry.add(entry(id="run-2-b", started_at=2.0, batch_job_id="b", host="login", **kube), TOKEN)
    return state


@pytest.mark.parametrize("word", WORDS)
def test_any_address_or_name_is_the_cluster_wherever_one_is_taken(word: str, two: Path) -> None:
    (two / "file").write_text(f"{word}\n")
    file = Choice(address_file=str(two / "file"))
    choices = [Choice(cluster=word), Choice(address=word), *([file] if ":" in word else [])]
    for choice in choices:
        (server,) = targets.servers(choice)
        assert (server.name, server.url) == ("run-1-left", "http://10.0.0.1:20002")
        assert server.token_file == registry.token_file(registry.find("run-1"))
    done = CliRunner().invoke(main.main, ["cluster", "address", word])
    assert (done.exit_code, done.stdout) == (0, "10.0.0.1:20001\n")
    assert targets.servers(Choice(address=word, token_file="t"))[0].token_file == Path("t")


def test_addresses_on_kubernetes(two: Path) -> None:
    for word in ("b-head-svc.ns.svc:6379", "b-head-svc:6379", "127.0.0.1:3", "b"):
        assert targets.servers(Choice(address=word))[0].name == "run-2-b"
    assert targets.servers(Choice(address="login:6379"))[0] == Server("login:6379", "http://login:8265", None)


def test_a_name_finds_a_cluster_whose_address_has_changed(two: Path) -> None:
    (two / "file").write_text("# Cluster: b\n10.9.9.9:6379\n")
    assert targets.servers(Choice(address_file=str(two / "file")))[0].url == "http://127.0.0.1:3"


def test_what_is_no_address_is_told(two: Path) -> None:
    with pytest.raises(RayhpcError, match="--address: 'auto' is no address"):
        targets.servers(Choice(address="auto"))


def test_the_file_of_the_home_directory_is_the_last_to_be_asked(
    two: Path, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option, the variable, the registry, the file; the line says which."""
    dashboard.tells(row(metadata={"user": registry.account()}))
    (two / ".ray_address").write_text(f"# Cluster: theirs\n{dashboard.url}\n")
    monkeypatch.setenv("RAYHPC_ADDRESS", dashboard.url)
    assert job_command("logs", "--cluster", "nothing")[2].startswith("rayhpc: there is no cluster nothing")
    assert job_command("list")[2] == f"{dashboard.url} (RAYHPC_ADDRESS)\n"
    assert targets.meant(Choice()).servers[-1].name == "run-2-b"
    for each in registry.every():
        registry.forget(each)
    assert targets.meant(Choice()).source == str(two / ".ray_address")
    monkeypatch.delenv("RAYHPC_ADDRESS")
    code, out, err = job_command("list")
    assert (code, err, "job-1\t" in out) == (0, f"theirs ({two}/.ray_address)\n", True)
    (two / ".ray_address").write_text("")  # as `rayhpc kube delete` leaves it
    assert job_command("list")[2].startswith("rayhpc: no cluster is registered")


def test_without_an_id_the_newest_of_mine(server: Server, dashboard: Dashboard) -> None:
    mine = {"user": "grace", "account": registry.account()}
    dashboard.tells(row("job-1", start_time=1000, metadata=mine), row("job-2", start_time=2000, metadata=mine),
                    row("job-3", start_time=3000))  # fmt: skip
    assert find.meant([server], [], registry.account())[0].job.id == "job-2"
    with pytest.raises(RayhpcError, match="eve has submitted no job"):
        find.meant([server], [], "eve")


def test_logs_and_wait_without_an_id(state: Path, dashboard: Dashboard) -> None:
    registry.add(entry(id="run-1", dashboard=dashboard.url), TOKEN)
    own = {"user": registry.account(), "command": "python x.py"}
    script = "cd /x || exit\npython x.py"
    dashboard.tells(row(status="FAILED", driver_exit_code=3, metadata=own, entrypoint=script))
    log = "setup\nRunning entrypoint for job job-1: cd /x || exit\npython x.py\nout\n"
    dashboard.answers["/api/jobs/job-1/logs"] = (200, json.dumps({"logs": log}))
    shown = "setup\nRunning entrypoint for job job-1: python x.py\nout\n"
    assert job_command("logs") == (0, shown, "job job-1, the newest\n")
    assert job_command("wait") == (3, "", "job job-1, the newest\njob job-1 FAILED, exit code 3\n")
    assert job_command("stop")[0] == 2


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_followed_log_begins_with_what_the_user_typed(size: int) -> None:
    found = replace(job(), id="j", script="IFS=:; set -f\npython x.py", entrypoint="python x.py")
    log = "Running\nRunning entrypoint for job j: IFS=:; set -f\npython x.py\nRunning entrypoint for job j: IFS\nRun"
    written: list[str] = []
    heading = follow._Heading(found, written.append)
    for place in range(0, len(log), size):
        heading.write(log[place : place + size])
    heading.close()
    assert "".join(written) == log.replace("IFS=:; set -f\n", "", 1)


def test_more_jobs_than_clusters(token: Path) -> None:
    servers = [Server(name, f"http://{name}:1", token) for name in "ab"]
    pairs = submit.to_each(servers, JobRequest(""), ["echo 0", "echo 1"])
    assert [(pair.server.name, pair.request.entrypoint) for pair in pairs] == [("a", "echo 0"), ("b", "echo 1")]
    with pytest.raises(RayhpcError, match="3 jobs for 2 clusters: nothing was submitted") as error:
        submit.to_each(servers, JobRequest(""), ["0", "1", "2"])
    assert code_of(error.value) is ExitCode.USAGE


def test_one_cluster_that_is_not_there_keeps_all_jobs_back(server: Server, dashboard: Dashboard, token: Path) -> None:
    dashboard.answers["/api/version"] = (200, "{}")
    gone = Server("gone", f"http://{closed_port()}", token)
    with pytest.raises(RayhpcError, match="nobody answers"):
        submit.check_before_submitting(submit.to_each([server, gone], JobRequest(""), ["echo 0", "echo 1"]))
    assert {method for method, _, _ in dashboard.requests} == {"GET"}


def test_ids_and_their_beginnings(server: Server, dashboard: Dashboard, token: Path) -> None:
    dashboard.tells(row("job-12"), row("job-123"), row("job-3"))
    gone = Server("gone", f"http://{closed_port()}", token)
    assert [found.job.id for found in find.meant([server, gone], ["job-12", "job-3"])] == ["job-12", "job-3"]
    with pytest.raises(RayhpcError, match="3 jobs are meant by job-"):
        find.meant([server], ["job-"])
    with pytest.raises(RayhpcError, match="there is no job 9") as error:
        find.meant([server], ["9"])
    assert "known: job-3, job-123, job-12" in error.value.fault.evidence
    with pytest.raises(RayhpcError, match="nobody answers"):  # it may be there
        find.meant([server, gone], ["9"])


def test_a_job_of_somebody_else_is_not_stopped(server: Server, dashboard: Dashboard) -> None:
    ended = {"status": "STOPPED", "end_time": 1795279367709}
    dashboard.tells(row("mine", **ended), row("theirs", metadata={"user": "bob"}))
    wanted = find.meant([server], ["mine", "theirs"])
    with pytest.raises(RayhpcError, match="job theirs is not yours: nothing was stopped") as error:
        stop.stop_jobs(wanted, "ada", False, print)
    assert "submitted by bob" in error.value.fault.text()
    assert not [path for method, path, _ in dashboard.requests if method == "POST"]


def test_a_job_that_waits_for_resources_does_not_stop_at_once(
    server: Server, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "_PENDING_SECONDS", 0.2)
    dashboard.tells(row("job-1", status="PENDING"))
    dashboard.answers["/api/jobs/job-1/stop"] = (200, '{"stopped": true}')
    with pytest.raises(RayhpcError, match="was told to stop and is still PENDING") as error:
        stop.stop_jobs(find.meant([server], ["job-1"]), "ada", False, print)
    assert error.value.fault.next_step == "rayhpc job wait job-1"


# ---------------------------------------------------------------------------------------------------- the command line


def job_command(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main.main, ["job", *words], prog_name="rayhpc")
    return done.exit_code, done.stdout, done.stderr


def test_a_state_that_we_do_not_know_stays_as_it_is(server: Server, dashboard: Dashboard, token: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    dashboard.tells(row("job-1", status="WARPING", metadata={"user": me, "command": "two\nlines"}), row("theirs"))
    target = ["--address", dashboard.url, "--token-file", str(token)]
    code, out, err = job_command("list", *target)
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    assert header.split("\t") == ["JOB ID", "USER", "START", "END", "STATUS", "ENTRYPOINT"]
    assert line.split("\t")[4:] == ["WARPING", "two\\nlines"]
    code, out, _ = job_command("list", "--json", "--all-users", *target)
    assert [(found["status"], found["exit_code"]) for found in json.loads(out)] == [
        ("WARPING", None),
        ("RUNNING", None),
    ]


def test_jobs_that_have_ended_are_shown_on_demand(server: Server, dashboard: Dashboard, token: Path) -> None:
    dashboard.tells(row("job-1", status="FAILED", driver_exit_code=3, end_time=1795279365655))
    target = ["--all-users", "--address", dashboard.url, "--token-file", str(token)]
    assert len(job_command("list", *target)[1].splitlines()) == 1
    assert len(job_command("list", "--all-statuses", *target)[1].splitlines()) == 2
    assert job_command("wait", "job-1", *target[1:]) == (3, "", "job job-1 FAILED, exit code 3\n")


def test_what_is_known_is_told_before_what_failed(state: Path, dashboard: Dashboard) -> None:
    registry.add(entry(id="run-1", dashboard=dashboard.url), TOKEN)
    registry.add(entry(id="run-2", dashboard=f"http://{closed_port()}", address=closed_port()), TOKEN)
    dashboard.tells(row())
    code, out, err = job_command("list", "--all-users")
    assert code == 78
    assert "job-1\t" in out
    assert "cluster run-2 is gone" in err


def test_options_of_the_job_are_its_own_and_ours_exclude_each_other(state: Path) -> None:
    code, _, err = job_command("submit", "--each", "--all", "--", "ls")
    assert (code, "--follow, --each and --all exclude each other" in err) == (2, True)
    registry.add(entry(id="run-1", dashboard=f"http://{closed_port()}", address=closed_port()), TOKEN)
    code, _, err = job_command("submit", "python", "x.py", "--follow", "--no-such")
    assert (code, "cluster run-1 is gone" in err) == (78, True)
