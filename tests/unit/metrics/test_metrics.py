"""Figures, questions and pictures over what a real Prometheus has kept: series of hosts that promtool packs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayhpc.errors import RayhpcError
from rayhpc.metrics import figures, grafana, kept, picture, prometheus, questions
from rayhpc.metrics.prometheus import Target
from rayhpc.metrics.questions import Prometheus
from rayhpc.records.runs import Run, span
from tests.launch import REPOSITORY, skip, until

BEGIN, MINUTES, HOSTS = 1_790_000_000, 10, 20
END = BEGIN + 60 * MINUTES
GIB = 2**30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of ten minutes on 20 hosts of 8 CPUs; on node07 nothing has happened."""
    if not shutil.which("prometheus"):
        skip("no prometheus on PATH")
    directory = tmp_path_factory.mktemp("run") / "20260921-142640-0a1b2c3d"
    prometheus.write_files(make(directory), "s3cret", scrape=True)
    samples = directory.with_suffix(".txt")
    samples.write_text(openmetrics())
    pack = ["promtool", "tsdb", "create-blocks-from", "openmetrics", samples, prometheus.data(directory / "metrics")]
    subprocess.run(pack, check=True, capture_output=True)
    lines = [{"at": at, "stage": "x", "rank": 0, "host": "node00"} for at in (BEGIN, END)]
    (directory / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Run(str(directory), "", HOSTS, HOSTS, 0, "the driver ended with 0")


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory / "metrics"


def openmetrics() -> str:
    """A sample every 10 s: two nodes of node00 tell the same of their host."""
    hosts = [f"node{number:02}" for number in range(HOSTS)]
    nodes = [*hosts, hosts[0]]
    series = {
        "ray_node_cpu_utilization": {f'host="{h}",rank="{n}"': 0 if n == 7 else 50 for n, h in enumerate(nodes)},
        "ray_node_mem_used": {f'host="{h}",rank="{n}"': (n + 1) * GIB for n, h in enumerate(hosts)},
        "ray_object_store_memory": {
            'host="node00",rank="0",Location="MMAP_SHM",ObjectState="SEALED"': GIB,
            'host="node00",rank="20",Location="MMAP_SHM",ObjectState="SEALED"': GIB,
            'host="node00",rank="0",Location="SPILLED",ObjectState=""': 7 * GIB,
        },
        "ray_component_cpu_percentage": {f'host="{h}",Component="ray::work"': 400 for h in hosts if h != "node07"},
    }
    text = ""
    for name, found in series.items():
        text += f"# TYPE {name} gauge\n"
        for labels, value in found.items():
            text += "".join(f"{name}{{{labels}}} {value} {at}\n" for at in range(BEGIN, END + 1, 10))
    return text + "# EOF\n"


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Prometheus]:
    with kept.served(run) as found:
        yield found


def test_what_was_kept_answers_promql(server: Prometheus) -> None:
    (one,) = server.at('max by (host) (ray_node_mem_used{host="node03"})', END)
    assert (dict(one.labels), one.samples) == ({"host": "node03"}, ((float(END), 4.0 * GIB),))
    assert [found.last for found in server.at("vector(7)", END)] == [7]
    assert server.at("7", END)[0].last == 7
    assert len(server.between("count(ray_node_mem_used)", BEGIN, END, 60)[0].samples) == MINUTES + 1


def test_bad_promql_is_2_and_shows_what_prometheus_says(server: Prometheus) -> None:
    with pytest.raises(RayhpcError) as caught:
        server.at("sum((", END)
    assert caught.value.fault.code == 2
    assert "parse error" in caught.value.fault.text()


def test_nobody_is_answered_without_the_password(server: Prometheus) -> None:
    stranger = Prometheus(server.url, "guess")
    assert not stranger.ready()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.at("up")
    assert server.password not in repr(server)


def test_the_figures_of_a_run(server: Prometheus) -> None:
    """19 hosts were half busy, with 4 CPUs each at work: of 160 CPUs for ten minutes, 76."""
    found = figures.of_run(server, HOSTS * 8, BEGIN, END)
    assert found["cpu_utilisation"] == pytest.approx(0.5 * 19 / 20, abs=1e-3)
    assert found["gpu_utilisation"] is None
    assert found["cpu_hours_granted"] == pytest.approx(160 / 6, abs=1e-3)
    assert found["cpu_hours_used"] == pytest.approx(76 / 6, abs=1e-3)
    assert found["peak_memory"] == {f"node{n:02}": (n + 1) * GIB for n in range(HOSTS)}
    assert found["peak_object_store"] == {"node00": 2 * GIB}
    words = figures.in_words(found)
    assert words.startswith("hosts' CPUs 48% busy; 12.67 of 26.67 CPU hours used; at most 20.0 GiB")


def test_figures_of_a_run_too_short_for_a_sample(server: Prometheus) -> None:
    found = figures.of_run(server, 4, BEGIN - 7200, BEGIN - 7190)
    assert (found["cpu_utilisation"], found["cpu_hours_used"], found["peak_memory"]) == (None, None, {})
    assert figures.in_words(found) == ""


@pytest.mark.parametrize("most", [HOSTS, HOSTS - 1])
def test_the_picture_has_lines_or_bands(server: Prometheus, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(picture, "MOST_HOSTS", most)
    content = picture.draw(server, BEGIN, END, "run")
    height = int.from_bytes(content[20:24], "big")
    assert content.startswith(b"\x89PNG")
    assert (height > 2000) == (most == HOSTS)


def test_there_is_no_picture_of_nothing(server: Prometheus) -> None:
    with pytest.raises(RayhpcError, match="no samples"):
        picture.draw(server, BEGIN - 7200, BEGIN - 3600, "run")


def test_the_kept_metrics_stay_as_they_are(run: Run) -> None:
    data = prometheus.data(Path(run.directory, "metrics"))
    before = sorted(str(path) for path in data.rglob("*"))
    with kept.served(run) as served:
        assert served.at("count(ray_node_mem_used)", END)[0].last == HOSTS
    assert sorted(str(path) for path in data.rglob("*")) == before


def test_a_command_that_is_killed_leaves_no_server(run: Run, tmp_path: Path) -> None:
    program = "import signal, sys; from rayhpc.metrics import kept; from rayhpc.records import runs\n"
    program += f"run = runs.Run({run.directory!r}, '', 1, 1, 0, '')\n"
    program += "with kept.served(run) as server:\n    print(server.url, flush=True)\n    signal.pause()\n"
    words = [sys.executable, "-c", program]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        url = command.stdout.readline().strip()
        command.kill()
    port = int(url.rpartition(":")[2])
    with socket.socket() as trial:
        assert until(lambda: trial.connect_ex(("127.0.0.1", port)) != 0, 10)
    assert until(lambda: not list(tmp_path.iterdir()), 10)


def test_a_run_without_metrics_says_so(tmp_path: Path) -> None:
    with pytest.raises(RayhpcError, match="kept no metrics"), kept.served(Run(str(tmp_path), "", 1, 1, 0, "")):
        pass


def test_a_prometheus_that_ends_at_once_is_shown_with_its_words(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such flag\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv(prometheus.VARIABLE, str(broken))
    with pytest.raises(RayhpcError) as caught, kept.served(run):
        pass
    assert "has ended with 3" in caught.value.fault.what
    assert caught.value.fault.evidence == ("no such flag",)


def test_no_prometheus_is_an_error_with_a_next_step() -> None:
    with pytest.raises(RayhpcError, match="no Prometheus here: /nowhere/prometheus") as caught:
        prometheus.find({prometheus.VARIABLE: "/nowhere/prometheus"})
    assert caught.value.fault.code == 78


def test_promtool_finds_no_fault_with_the_files(run: Run, tmp_path: Path) -> None:
    directory = make(tmp_path / "files")
    prometheus.write_files(directory, "s3cret", scrape=True)
    prometheus.write_targets(directory, [Target("10.0.0.1:9", {"host": "a"}), Target("[::1]:9", {"host": "b"})])
    for check in (["config", "prometheus.yml"], ["web-config", "web.yml"]):
        done = subprocess.run(["promtool", "check", *check], cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "s3cret" not in (directory / "web.yml").read_text()
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [directory, *directory.iterdir()]} == {0}


def test_the_span_of_a_run(run: Run) -> None:
    assert span(run) == (BEGIN, END)


def test_grafana_gets_rays_dashboards_the_datasource_and_the_provisioning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {"default": '{"title": "Default Dashboard"}'}
    monkeypatch.setattr(grafana, "dashboards", lambda: made)
    folder = tmp_path / "grafana"
    grafana.write(folder, "http://127.0.0.1:9", "s3cret")
    (source,) = json.loads((folder / "provisioning/datasources/rayhpc.yaml").read_text())["datasources"]
    assert (source["url"], source["basicAuthUser"]) == ("http://127.0.0.1:9", prometheus.USER)
    (provider,) = json.loads((folder / "provisioning/dashboards/ray.yaml").read_text())["providers"]
    assert os.listdir(provider["options"]["path"]) == ["default.json"]
    assert f"provisioning = {folder}/provisioning" in (folder / "grafana.ini").read_text()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(RayhpcError, match="File exists"):
        grafana.write(folder, "http://127.0.0.1:9", "s3cret")


def test_an_answer_of_every_type_is_understood() -> None:
    assert questions._series({"resultType": "scalar", "result": [1.0, "2"]})[0].last == 2
