"""What ranks tell each other, and how they measure the ways between them: real sockets, on the loopback."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterator

import pytest

from rayhpc.doctor import answering, checks_network, checks_python, ranks
from rayhpc.doctor.answering import Answering
from rayhpc.doctor.here import Here, Meeting, Peer
from rayhpc.doctor.ranks import Part
from rayhpc.finding import Finding, Verdict, fail, warn
from rayhpc.options import Options

PORTS = (11000, 21000, 33000)


@pytest.fixture
def answers() -> Iterator[Answering]:
    made = Answering()
    yield made
    made.close()


def facts(rank: int, host: str) -> ranks.Facts:
    versions = {} if rank else {"ray": "2.60.0"}
    return ranks.Facts(f"{host}/boot/net", Peer(host, (f"10.0.0.{rank}",), PORTS), versions)


def met(*hosts: str, **environ: str) -> list[Meeting]:
    return ranks._meet(environ, [facts(rank, host) for rank, host in enumerate(hosts)])


def where(head: Peer | None, *peers: Peer, **versions: str) -> Meeting:
    return Meeting(False, True, 1, 2, versions, head, peers)


def test_the_first_rank_of_a_host_looks_at_it() -> None:
    told = met("a", "a", "b", "b")
    assert [each.first for each in told] == [True, False, True, False]
    assert [each.leads for each in told] == [True, False, False, False]
    assert [each.ranks_here for each in told] == [2] * 4
    assert [each.head is None for each in told] == [True, True, False, False]
    assert [peer.host for peer in told[2].peers] == ["a"]


def test_every_host_is_tried_by_another() -> None:
    hosts = [f"n{n}" for n in range(100)]
    told = met(*hosts)
    assert {each.peers[0].host for each in told} == set(hosts)
    assert len(told[0].peers) == 9
    assert all(len(each.peers) == 2 for each in told[1:])
    assert all(peer.host != host for each, host in zip(told, hosts, strict=True) for peer in each.peers)


def test_what_a_rank_is_told_does_not_grow_with_the_ranks() -> None:
    few, many = (len(pickle.dumps(met(*(f"n{n}" for n in range(size)))[-1])) for size in (4, 400))
    assert many < few + 20


def test_alone_there_is_nobody_to_try() -> None:
    (only,) = met("a")
    assert (only.peers, only.others) == ((), [])


def test_hosts_of_the_job_without_a_rank() -> None:
    told = met("n1", "n3", SLURM_JOB_ID="1", SLURM_JOB_NODELIST="n[1-4]")
    assert told[0].unused == ("n2", "n4")
    assert told[1].unused == ()


def test_a_way_that_is_open(answers: Answering) -> None:
    peer = Peer("b", ("127.0.0.1",), answers.ports)
    there = where(peer, peer)
    here = Here(Options(), {}, there, checks_network.measure_all(there))
    assert set(here.ways.refusals.values()) == {""}
    for check in (checks_network.reach, checks_network.ports, checks_network.speed, checks_network.clock):
        assert list(check(here)) == []
    measured = answering.measure("127.0.0.1", answers.ports[0], speed=True)
    assert 0 < measured.round_trip < 0.1
    assert measured.rate > 1e6
    assert abs(measured.ahead) < 0.5


def test_the_ports_are_in_three_ranges(answers: Answering) -> None:
    workers, ours, _ = answers.ports
    assert workers in range(10002, 20000)
    assert ours in range(20000, 32768)


def test_ports_that_are_closed(answers: Answering) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = int(taken.getsockname()[1])
    there = where(None, Peer("b", ("127.0.0.1",), (answers.ports[0], closed)), Peer("c", ("127.0.0.1",), (closed,)))
    here = Here(Options(), {}, there, checks_network.measure_all(there))
    (some,) = checks_network.ports(here)
    assert (some.what, some.verdict) == ("some ports of b are closed", Verdict.FAIL)
    assert some.evidence == (f"b 127.0.0.1 port {closed}: Connection refused",)
    (none,) = checks_network.reach(here)
    assert none.what == "c cannot be reached"


def test_a_clock_that_is_wrong(answers: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    real = answering._stamp
    monkeypatch.setattr(answering, "_stamp", lambda connection: real(connection) + 90)
    there = where(Peer("head", ("127.0.0.1",), answers.ports))
    (found,) = checks_network.clock(Here(Options(), {}, there, checks_network.measure_all(there)))
    assert found.what == "the clock is behind the head's by more than a second"
    assert found.evidence == ("90.0 s",)


def test_a_way_that_is_slow(answers: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer("b", ("127.0.0.1",), answers.ports)
    here = Here(Options(), {}, where(None, peer), dict.fromkeys(peer.ways, ""))
    real = answering._swallow

    def slowly(connection: socket.socket) -> None:
        real(connection)
        time.sleep(0.1)

    monkeypatch.setattr(answering, "_swallow", slowly)
    here = Here(Options(), {}, where(None, peer), checks_network.measure_all(where(None, peer)))
    (found,) = checks_network.speed(here)
    assert found.what == "the way to b is slow"
    assert "MB/s" in found.evidence[0]


def test_a_way_on_which_data_is_lost() -> None:
    """Connections are made by the kernel; whoever should answer does not."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = int(mute.getsockname()[1])
        to = where(None, Peer("b", ("127.0.0.1",), (port,)))
        (found,) = checks_network.speed(Here(Options(), {}, to, checks_network.measure_all(to)))
    assert found.what == "data sent to b does not arrive"
    assert found.evidence == (f"127.0.0.1 port {port}: timed out",)


def test_another_environment_than_rank_0s() -> None:
    own = checks_python.versions_here()
    assert list(checks_python.versions(Here(Options(), {}, where(None, **own)))) == []
    (found,) = checks_python.versions(Here(Options(), {}, where(None, **{**own, "ray": "2.54.0", "extra": "1"})))
    assert found.what == "another environment than rank 0's: ray, extra"
    assert f"ray {own['ray']}, on rank 0 2.54.0" in found.evidence
    assert "extra missing, on rank 0 1" in found.evidence


RUNS, OUT, ENDS = Part.TAKES_PART, Part.LEFT_OUT, Part.ENDS


@pytest.mark.parametrize(
    ("bad", "check", "least", "parts"),
    [
        ((), "stop", 0, [RUNS] * 4),
        (("b",), "stop", 0, [ENDS] * 4),
        (("b",), "exclude", 0, [ENDS] * 4),  # all hosts are wanted unless --min-nodes says less
        (("b",), "exclude", 1, [RUNS, RUNS, OUT, OUT]),
        (("a",), "exclude", 1, [ENDS] * 4),  # the head cannot be left out
    ],
)
def test_bad_hosts_are_left_out_where_that_was_asked_for(
    bad: tuple[str, ...], check: str, least: int, parts: list[Part]
) -> None:
    found: list[tuple[str, list[Finding]]] = [
        (host, [fail("x", next_step="y") if host in bad else warn("z", next_step="y")]) for host in "aabb"
    ]
    made = ranks._join("4 checks", Options(check=check, min_nodes=least), found)
    assert [each.part for each in made] == parts
    assert made[1].findings == ()
    assert ("goes on without" in made[0].text) == (OUT in parts)
    assert ("exit code 78" in made[0].text) == (ENDS in parts)
    assert [(each.host, each.reason) for each in made[0].bad] == [(host, ": x") for host in bad]
    assert not any(each.bad for each in made[1:])


@pytest.mark.parametrize(("bad", "part"), [("b", OUT), ("c", OUT), ("bc", ENDS)])
def test_as_many_bad_hosts_are_left_out_as_there_are_spares(bad: str, part: Part) -> None:
    found = [(host, [fail("x", next_step="y")] if host in bad else []) for host in "abc"]
    made = ranks._join("4 checks", Options(check="exclude", spares=1), found)
    assert {each.part for each, (host, _) in zip(made, found, strict=True) if host in bad} == {part}


def test_what_fails_on_every_host_is_no_hosts_fault() -> None:
    found = [(host, [fail("x", next_step="y")]) for host in "ab"]
    assert ranks._join("4 checks", Options(check="exclude"), found)[0].bad == ()
