"""What users may say to Ray: refused before anything is started, with exit code 2, or never."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc.bootstrap.node import start_arguments
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.launch import ray_args
from rayhpc.model import Gpus
from rayhpc.options import Options
from tests.unit.making import assignment, cluster, node


def refused(options: Options) -> str:
    with pytest.raises(RayhpcError) as caught:
        ray_args.check(options)
    assert caught.value.fault.code == ExitCode.USAGE
    assert caught.value.fault.next_step
    return caught.value.fault.what


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", {}), ("{}", {}), ('{"fast": 2}', {"fast": 2.0}), ('{"a": 0.5, "b": 0}', {"a": 0.5, "b": 0.0})],
)
def test_resources(text: str, expected: dict[str, float]) -> None:
    assert ray_args.resources(text) == expected


def test_resources_may_have_any_name(hostile: str) -> None:
    assert ray_args.resources(json.dumps({hostile: 1})) == {hostile: 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "fast", "{", "[]", "1", "null", '"fast"', '{"a": "1"}', '{"a": true}', '{"a": -1}', '{"a": null}',
        '{"a": NaN}', '{"a": Infinity}', '{"a": {"b": 1}}', '{"CPU": 1}', '{"GPU": 1, "a": 1}', '{"memory": 1}',
        '{"object_store_memory": 1}', "{'fast': 2}",
    ],
)  # fmt: skip
def test_resources_refused(text: str) -> None:
    assert "--resources" in refused(Options(resources=text))


@given(st.text())
def test_any_text_is_resources_or_refused(text: str) -> None:
    try:
        assert all(value >= 0 for value in ray_args.resources(text).values())
    except RayhpcError as error:
        assert error.fault.code == ExitCode.USAGE


@pytest.mark.parametrize("labels", ["", "a=b", "zone=a,fast=yes", "a=", "site.org/zone=b-1_2.3"])
def test_labels(labels: str) -> None:
    ray_args.check(Options(labels=labels))


@pytest.mark.parametrize("labels", ["a", "a=b,c", "fast"])
def test_labels_refused(labels: str) -> None:
    assert "is no KEY=VALUE" in refused(Options(labels=labels))


# Ray refuses these at the start of a node (ray/_private/label_utils.py); the last would give every node the rank 7.
@pytest.mark.parametrize(
    "labels", ["a=b=c", "=x", "a b=c", "a=b c", "-a=b", "a=b-", "a=b,", "a=b,,c=d", "a=" + "x" * 64, "rayhpc-rank=7"]
)
def test_labels_that_ray_refuses(labels: str) -> None:
    assert "--labels" in refused(Options(labels=labels))


@pytest.mark.parametrize(
    "argument", ["--verbose", "--system-config={}", "--object-spilling-directory=/x y", "--a=--head"]
)
def test_further_arguments(argument: str) -> None:
    ray_args.check(Options(ray_arg=("--verbose", argument)))


@pytest.mark.parametrize("argument", ["", "head", "-v", "verbose=1", " --verbose"])
def test_no_arguments(argument: str) -> None:
    assert "does not begin with --" in refused(Options(ray_arg=("--verbose", argument)))


@pytest.mark.parametrize("tail", ["", "=1"])
@pytest.mark.parametrize(
    "name", ["--head", "--address", "--num-cpus", "--num-gpus", "--temp-dir", "--labels", "--block"]
)
def test_arguments_that_are_ours_to_say(name: str, tail: str) -> None:
    assert name in refused(Options(ray_arg=(name + tail,)))


# What becomes of them: the command line of `ray start`.


def arguments(rank: int, **options: object) -> list[str]:
    spec = cluster([node(0, gpus=Gpus(ids=("0", "1"))), node(1, cpus=3)], dashboard_port=8300)
    own = assignment(spec, rank)
    assert own.node is not None
    made = Options(**options)  # type: ignore[arg-type]
    return start_arguments(own, own.node, made, 0 if rank else 20001, "10.0.0.1:20001" if rank else "")


def test_the_head_says_its_port_and_all_resources() -> None:
    said = arguments(0)
    assert {"--head", "--port=20001", "--num-cpus=2", "--num-gpus=2", "--node-ip-address=10.0.0.1"} <= set(said)
    assert "--include-dashboard=false" in said
    assert not [word for word in said if word.startswith("--address")]


def test_a_worker_joins_and_starts_nothing_else() -> None:
    said = arguments(1, dashboard=True)
    assert {"--address=10.0.0.1:20001", "--num-cpus=3", "--num-gpus=0", "--labels=rayhpc-rank=1"} <= set(said)
    assert not [
        word for word in said if word.startswith(("--head", "--port", "--include-dashboard", "--dashboard-host"))
    ]


def test_the_dashboard_listens_on_the_loopback_alone() -> None:
    said = arguments(0, dashboard=True)
    assert {"--include-dashboard=true", "--dashboard-host=10.0.0.1", "--dashboard-port=8300"} <= set(said)


def test_the_users_words_come_last_and_their_labels_first(hostile: str) -> None:
    said = arguments(0, labels="zone=a", resources=json.dumps({hostile: 1}), ray_arg=(f"--x={hostile}", "--verbose"))
    assert said[-2:] == [f"--x={hostile}", "--verbose"]
    assert "--labels=zone=a,rayhpc-rank=0" in said
    (spoken,) = [word for word in said if word.startswith("--resources=")]
    assert json.loads(spoken.removeprefix("--resources=")) == {hostile: 1}


def test_what_rayhpc_says_itself_is_refused_from_the_user() -> None:
    """Every option with a value that is agreed among the ranks; what the user may move (worker ports) is not."""
    said = {word.partition("=")[0] for word in arguments(0, dashboard=True, resources='{"a": 1}') + arguments(1)[2:]}
    movable = {"start", "--min-worker-port", "--max-worker-port", "--dashboard-agent-listen-port", "--no-monitor"}
    assert {name for name in said - movable if name in refused(Options(ray_arg=(name,)))} == said - movable
