"""Ports and connections, on the loopback alone."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import network
from rayhpc.model import Probe


@pytest.fixture
def listener() -> Iterator[network.Listener]:
    made = network.Listener()
    yield made
    made.close()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as trial:
        trial.bind(("::1", 0))
        return True
    return False


def test_a_free_port_can_be_bound() -> None:
    port = network.free_port("here")
    assert 20000 <= port < 32768
    with socket.create_server(("", port)):
        pass


def test_a_wanted_port_is_taken_if_free() -> None:
    port = network.free_port("here")
    assert network.free_port("here", port) == port


def test_a_wanted_port_in_use_is_refused_by_name() -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RayhpcError, match=f"port {port} is in use on host1") as caught:
            network.free_port("host1", port)
    assert caught.value.fault.code == ExitCode.CONFIGURATION


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind it")
def test_a_port_for_root_alone_is_refused_by_name() -> None:
    with pytest.raises(RayhpcError, match="port 80 is for root alone on host1"):
        network.free_port("host1", 80)


def test_a_port_in_use_on_one_address_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(RayhpcError, match="is in use"):
        network.free_port("here", other.getsockname()[1])


def test_a_port_given_out_already_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = network.free_port("here"), network.free_port("here")
    monkeypatch.setattr(network, "_PORTS", [first] * 100 + [second] * 100)
    if first != second:
        assert network.free_port("here", taken=frozenset({first})) == second
    with pytest.raises(RayhpcError, match="no free port on here"):
        network.free_port("here", taken=frozenset({first, second}))


def test_the_head_is_reached_by_its_address(listener: network.Listener) -> None:
    reached = network.reach(3, "rank 3 on b", Probe(("127.0.0.1",), listener.port))
    assert (reached.rank, reached.place, reached.own, reached.refusals) == (
        3,
        "rank 3 on b",
        {"127.0.0.1": "127.0.0.1"},
        (),
    )


def test_a_refusal_is_told_and_not_raised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    reached = network.reach(1, "rank 1 on a", Probe(("127.0.0.1", "127.0.0.2"), port))
    assert reached.own == {}
    assert reached.refusals == ("127.0.0.1: Connection refused", "127.0.0.2: Connection refused")


def test_a_closed_listener_is_closed(listener: network.Listener) -> None:
    listener.close()
    assert network.reach(0, "", Probe(("127.0.0.1",), listener.port)).own == {}


# net.core.somaxconn was 128 before Linux 5.4 (RHEL 7 and 8), a connection counts until it is accepted, and each rank
# makes one for each address of the head. Here the kernel allows eight.
def test_more_ranks_reach_the_head_than_the_kernel_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_CONNECT_SECONDS", 2.0)
    allowed = socket.create_server
    monkeypatch.setattr(
        socket,
        "create_server",
        lambda *args, **kinds: allowed(*args, **{**kinds, "backlog": min(8, kinds.get("backlog", 8))}),
    )
    listener = network.Listener()
    try:
        reaches = [network.reach(rank, "", Probe(("127.0.0.1",), listener.port)) for rank in range(12)]
    finally:
        listener.close()
    assert [entry.rank for entry in reaches if not entry.own] == []


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback")
def test_the_head_is_reached_by_ipv6(listener: network.Listener) -> None:
    assert network.reach(1, "", Probe(("::1",), listener.port)).own == {"::1": "::1"}
