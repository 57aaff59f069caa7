"""The environments of the daemons and of the driver: what is taken out, what is put in, what the user keeps."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc import paths
from rayhpc.inside_ray import names, start_hook
from rayhpc.model import Certificate, Gpus
from rayhpc.processes import environment
from tests.unit.making import assignment, cluster, node

USERS_OWN = {
    "PATH": "/usr/bin",
    "HOME": "/home/me",
    "LD_LIBRARY_PATH": "/opt/lib",
    "SLURM_JOB_ID": "7",  # a driver may ask Slurm for its time
    "PBS_JOBID": "7",
    "OMP_NUM_THREADS": "4",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "RAY_BACKEND_LOG_LEVEL": "debug",
    "RAY_num_heartbeats_timeout": "99",
    "MY_RAY_ADDRESS": "x",
    "PMI": "no prefix of MPI's",
}
MPIS = dict.fromkeys(
    (
        "PMI_RANK", "PMI_SIZE", "PMI_FD", "PMI2_SPAWN", "PMIX_RANK", "PMIX_SERVER_URI41", "HYDI_CONTROL_FD",
        "HYD_PROXY", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_ess", "OMPI_UNIVERSE_SIZE", "PRTE_LAUNCHED", "MPI_LOCALRANKID",
        "MPI_LOCALNRANKS", "MV2_COMM_WORLD_RANK", "PALS_RANKID", "ALPS_APP_PE", "RAYHPC_RANK", "RAYHPC_SIZE",
        "RAYHPC_RENDEZVOUS", "RAYHPC_RENDEZVOUS_FILE", "RAYHPC_HEAD", "RAYHPC_PORT", "RAYHPC_NODES",
        "RAYHPC_TOKEN_FILE", "RAY_HEAD_IP", "RAY_HEAD_PORT",
    ),
    "1",
)  # fmt: skip
RAYS = dict.fromkeys(
    (
        "RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_NAMESPACE",
        "RAY_API_SERVER_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_START_HOOK",
    ),
    "x",
)  # fmt: skip

SPEC = cluster(2, deadline=1800000000.4)
OWN = assignment(SPEC, token="s3cret-token")
TIGHT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


def daemons(environ: dict[str, str], nodes: int = 2) -> dict[str, str]:
    spec = cluster(nodes)
    return environment.of_daemons(environ, assignment(spec), spec.head)


def driver(environ: dict[str, str]) -> dict[str, str]:
    return environment.of_driver(environ, OWN, SPEC)


def test_python_in_a_job_is_ours() -> None:
    own = str(Path(sys.executable).parent)
    assert daemons({"PATH": "/usr/bin"})["PATH"] == f"{own}:/usr/bin"
    assert daemons({"PATH": f"/mine:{own}:/usr/bin"})["PATH"] == f"/mine:{own}:/usr/bin"


def test_mpi_and_other_clusters_are_scrubbed_and_nothing_else() -> None:
    assert environment.scrubbed({**USERS_OWN, **MPIS, **RAYS}) == USERS_OWN


@pytest.mark.parametrize("name", [*MPIS, *RAYS])
def test_no_child_inherits(name: str) -> None:
    foreign = {name: "from outside"}
    assert daemons(foreign).get(name) != "from outside"
    assert driver(foreign).get(name) != "from outside"


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_scrubbing_takes_away_only_and_is_idempotent(environ: dict[str, str]) -> None:
    once = environment.scrubbed(environ)
    assert once.items() <= environ.items()
    assert environment.scrubbed(once) == once


@pytest.mark.parametrize("children", [daemons, driver])
def test_hostile_values_arrive_as_they_are(children: object, hostile: str) -> None:
    assert callable(children)
    made = children({"NAME": hostile, hostile: "value"})
    assert (made["NAME"], made[hostile]) == (hostile, "value")


def test_the_driver_finds_the_cluster_and_its_run() -> None:
    made = driver({})
    assert made["RAY_ADDRESS"] == "10.0.0.1:20001"
    assert (made["RAYHPC_RUN_ID"], made["RAYHPC_RUN_DIR"]) == (SPEC.run_id, SPEC.run_dir)
    assert made["RAYHPC_DEADLINE"] == "1800000000"
    assert made["RAYHPC_DEADLINE_FILE"] == f"{SPEC.run_dir}/deadline"


def test_the_driver_knows_how_many_nodes_are_alive() -> None:
    assert driver({})["RAYHPC_ALIVE_NODES"] == str(len(SPEC.nodes))
    assert environment.of_driver({}, OWN, SPEC, alive=1)["RAYHPC_ALIVE_NODES"] == "1"  # --min-nodes 1


@pytest.mark.parametrize(
    ("users_own", "expected"),
    [
        ({}, {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "=ib0"}),
        ({"NCCL_SOCKET_IFNAME": "hsn"}, {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "hsn"}),
        ({"GLOO_SOCKET_IFNAME": ""}, {"GLOO_SOCKET_IFNAME": "", "NCCL_SOCKET_IFNAME": "=ib0"}),
    ],
)
def test_collectives_use_the_runs_interface_unless_the_user_names_one(
    users_own: dict[str, str], expected: dict[str, str]
) -> None:
    daemons_own = environment.of_daemons(users_own, OWN, SPEC.head, "ib0")
    for made in (daemons_own, environment.of_driver(users_own, OWN, SPEC, interface="ib0")):
        assert {name: made[name] for name in expected} == expected


def test_an_interface_that_is_not_known_is_no_variable() -> None:
    assert not [name for name in {**daemons({}), **driver({})} if name.endswith("_SOCKET_IFNAME")]


def test_no_deadline_is_no_variable() -> None:
    assert "RAYHPC_DEADLINE" not in environment.of_driver({}, OWN, cluster(2))


def test_an_ipv6_head_is_bracketed() -> None:
    spec = cluster([node(0, address="fd00::5")])
    assert environment.of_driver({}, OWN, spec)["RAY_ADDRESS"] == "[fd00::5]:20001"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("ray", "switch", "hooked", "directory"),
    [
        ("2.60.0", "", True, False),
        ("2.54.0", "", True, True),
        ("2.60.0", "0", False, False),
        ("2.54.0", "0", True, True),
    ],
)
def test_the_hook_is_set(ray: str, switch: str, hooked: bool, directory: bool, rank: int) -> None:
    """Without the patches for Ray 2.54 alone, whose workers' --temp-dir is the head's."""
    made = environment.of_daemons({"RAYHPC_RAY_PATCHES": switch}, replace(OWN, ray=ray), SPEC.nodes[rank])
    assert made.get("RAYHPC_NODE_TABLE") == (paths.node_table(SPEC.nodes[0].temp_dir) if rank == 0 else None)
    assert made.get("RAY_START_HOOK") == (f"{start_hook.__name__}.adjust" if hooked else None)
    assert ("RAYHPC_RAY_TEMP_DIR" in made) == directory


@pytest.mark.parametrize("port", [0, 8265])
def test_all_ranks_know_whether_there_is_a_dashboard(port: int) -> None:
    made = [environment.of_daemons({}, replace(OWN, dashboard_port=port), node) for node in SPEC.nodes]
    assert [entry.get("RAYHPC_RAY_DASHBOARD") for entry in made] == (["1"] if port else [None]) * 2


@pytest.mark.parametrize(("head", "expected"), [(True, (None, "/given")), (False, (10001, "/own"))])
def test_the_hook(head: bool, expected: tuple[object, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without the patches."""
    monkeypatch.setenv("RAY_START_HOOK", names.HOOK_NAME)
    monkeypatch.setenv("RAYHPC_NODE_TABLE", "/run/nodes")
    monkeypatch.setenv("RAYHPC_RAY_TEMP_DIR", "/own")
    monkeypatch.setenv("RAYHPC_RAY_PATCHES", "0")
    parameters = SimpleNamespace(ray_client_server_port=10001, temp_dir="/given")
    start_hook.adjust(parameters, head)
    assert (parameters.ray_client_server_port, parameters.temp_dir) == expected
    assert not {"RAY_START_HOOK", "RAYHPC_NODE_TABLE"} & set(os.environ)


def test_daemons_have_no_address_of_a_cluster() -> None:
    assert "RAY_ADDRESS" not in daemons({})


@pytest.mark.parametrize("made", [daemons({}), driver({}), environment.authentication("/tmp/private")])
def test_the_token_is_a_path_and_never_a_value(made: dict[str, str]) -> None:
    assert made["RAY_AUTH_MODE"] == "token"
    assert made["RAY_AUTH_TOKEN_PATH"].startswith("/tmp/")
    assert made["RAY_AUTH_TOKEN_PATH"].endswith("/token")
    assert not [value for value in made.values() if "s3cret" in value]


def test_a_certificate_is_given_as_paths_to_daemons_driver_and_the_node_tables_client() -> None:
    own = replace(OWN, certificate=Certificate("chain", "s3cret-key"))
    expected = {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": "/tmp/rh-01234567-0/tls.crt",
        "RAY_TLS_SERVER_KEY": "/tmp/rh-01234567-0/tls.key",
        "RAY_TLS_CA_CERT": "/tmp/rh-01234567-0/tls.crt",
    }
    users_own = dict.fromkeys(expected, "the user's own")
    for made in (
        environment.of_daemons(users_own, own, SPEC.head),
        environment.of_driver(users_own, own, SPEC),
        environment.authentication("/tmp/rh-01234567-0", tls=True),
    ):
        assert made.items() >= {**expected, "RAY_AUTH_MODE": "token"}.items()
        assert "s3cret-key" not in str(made)


def test_without_tls_nothing_is_said_of_it() -> None:
    assert not [name for name in {**daemons({}), **driver({})} if "TLS" in name]


def test_the_token_is_in_no_representation() -> None:
    assert "s3cret" not in repr(OWN)
    assert OWN.token == "s3cret-token"


def test_every_process_carries_the_marker_that_the_sweep_looks_for() -> None:
    marker = environment.marker(OWN.run_id, 0)
    for made in (environment.of_daemons({}, OWN, SPEC.head), driver({})):
        assert marker in {f"{name}={value}" for name, value in made.items()}
    assert marker != environment.marker(OWN.run_id, 1)


def test_an_inherited_marker_is_replaced() -> None:
    assert driver({environment.MARKER: "other/0"})[environment.MARKER] == f"{SPEC.run_id}/0"


@pytest.mark.parametrize(("nodes", "tight"), [(1, True), (64, True), (65, False), (1000, False)])
def test_small_clusters_notice_death_in_seconds(nodes: int, tight: bool) -> None:
    assert (TIGHT.items() <= daemons({}, nodes).items()) == tight


def test_a_setting_of_the_users_own_wins() -> None:
    assert daemons({"RAY_health_check_period_ms": "7", "RAY_USAGE_STATS_ENABLED": "1"}).items() >= {
        ("RAY_health_check_period_ms", "7"),
        ("RAY_USAGE_STATS_ENABLED", "1"),
    }
    assert driver({"RAY_USAGE_STATS_ENABLED": "1"})["RAY_USAGE_STATS_ENABLED"] == "1"


def test_a_nodes_gpus_are_its_own() -> None:
    spec = cluster([node(0, gpus=Gpus("HIP_VISIBLE_DEVICES", ("2", "3")))])
    made = environment.of_daemons({"HIP_VISIBLE_DEVICES": "0,1,2,3"}, assignment(spec), spec.head)
    assert made["HIP_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize("proxy", ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY",
                                   "grpc_proxy"])  # fmt: skip
@pytest.mark.parametrize("children", [daemons, driver])
def test_the_cluster_is_not_behind_a_proxy(children: object, proxy: str) -> None:
    assert callable(children)
    made = children({proxy: "http://proxy:3128"})
    assert made["no_proxy"] == made["NO_PROXY"] == "localhost,127.0.0.1,10.0.0.1"
    assert made[proxy] == "http://proxy:3128"


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_the_users_exceptions_stay(name: str) -> None:
    made = daemons({"https_proxy": "x", name: ".site.org,10.9.0.0/16"})
    assert made["no_proxy"].startswith(".site.org,10.9.0.0/16,localhost,")


def test_a_worker_reaches_the_head_and_itself_without_a_proxy() -> None:
    spec = cluster(2)
    made = environment.of_daemons({"http_proxy": "x"}, assignment(spec, 1), spec.nodes[1])
    assert {"10.0.0.1", "10.0.0.2"} <= set(made["no_proxy"].split(","))


def test_without_a_proxy_nothing_is_said_of_it() -> None:
    assert "no_proxy" not in daemons({})
    assert daemons({"no_proxy": "a"})["no_proxy"] == "a"


def test_the_callers_environment_is_left_as_it_is() -> None:
    environ = {**USERS_OWN, **MPIS, "http_proxy": "x"}
    before = dict(environ)
    daemons(environ)
    driver(environ)
    assert environ == before
