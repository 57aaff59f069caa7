"""What a cluster can hold, before anything is asked of it."""

from __future__ import annotations

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.sweep import placement
from rayhpc.sweep.plan import Resources, Sweep

FOUR = [{"CPU": 4.0, "GPU": 2.0, "memory": 8e9}] * 4


def sweep(**fields: object) -> Sweep:
    return Sweep("s", "/", command=("x",), samples=100, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({}, 16),
        ({"resources": Resources(2)}, 8),
        ({"resources": Resources(1, 1)}, 8),
        ({"resources": Resources(0, 0.25)}, 32),
        ({"resources": Resources(1, 0, 5_000_000_000)}, 4),
        ({"resources": Resources(0)}, 16),
        ({"processes": 2}, 8),
        ({"processes": 8}, 2),
        ({"processes": 2, "nodes": "host", "resources": Resources(3)}, 0),
        ({"processes": 2, "nodes": "host", "resources": Resources(2)}, 4),
        ({"processes": 4, "nodes": "all different", "resources": Resources(2)}, 2),
        ({"processes": 5, "nodes": "all different"}, 0),
    ],
)
def test_room(fields: dict[str, object], room: int) -> None:
    assert placement.room(sweep(**fields), FOUR) == room


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"resources": Resources(5)}, "no room for 1 process with 5 CPU each"),
        ({"resources": Resources(1, 3)}, "the largest has 4 CPU, 2 GPU"),
        ({"concurrent": True}, "no room for 100 processes"),
    ],
)
def test_what_no_node_can_hold(fields: dict[str, object], told: str) -> None:
    with pytest.raises(RayhpcError) as caught:
        placement.check(sweep(**fields), FOUR)
    assert caught.value.fault.code is ExitCode.CONFIGURATION
    assert told in "\n".join([caught.value.fault.what, *caught.value.fault.evidence])


def test_what_fits_is_not_refused() -> None:
    placement.check(sweep(), FOUR)


def test_a_trial_whose_packages_cannot_be_installed_is_not_lost() -> None:
    from ray import exceptions

    error = exceptions.RuntimeEnvSetupError("No module named 'virtualenv'")
    assert not placement.lost(error)
    assert "No module named 'virtualenv'" in placement.refused(error).fault.evidence
    assert placement.lost(exceptions.NodeDiedError("its node"))
