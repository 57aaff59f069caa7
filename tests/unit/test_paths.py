"""Names of files, and the arithmetic of AF_UNIX: a path that is one byte too long ends a run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc import paths

RUN = "20261121-094408-01234567"
# Ray's longest, with the largest pid of Linux and the largest rank that paths.py counts with.
SESSION = "session_2026-01-31_23-59-59_123456_4194304"
RANK = 99999


def socket_path(base: str, name: str) -> str:
    return f"{paths.ray_temp_dir(paths.private_dir(base, RUN, RANK))}/{SESSION}/sockets/{name}"


def longest_base() -> str:
    return "/" + "x" * (paths.temp_base_limit(dashboard=False) - 1)


@pytest.mark.parametrize("name", ["raylet", "raylet.1", "plasma_store", "plasma_store.1"])
def test_rays_sockets_fit_below_the_longest_base(name: str) -> None:
    assert len(os.fsencode(socket_path(longest_base(), name))) <= paths.AF_UNIX_LIMIT


# With --dashboard Ray opens a socket for each module of its dashboard as well, and the longest name among them (Ray
# 2.60: dashboard/subprocesses/utils.py, get_socket_path) is dash_TaskEventsHead.
def test_the_dashboards_sockets_fit_below_the_longest_base() -> None:
    base = "/" + "x" * (paths.temp_base_limit(dashboard=True) - 1)
    assert len(os.fsencode(socket_path(base, "dash_TaskEventsHead"))) <= paths.AF_UNIX_LIMIT


def test_the_limit_is_the_kernels(short: str) -> None:
    """107 bytes can be bound, 108 cannot, on this very kernel."""
    fits = f"{short}/".ljust(paths.AF_UNIX_LIMIT, "x")
    with socket.socket(socket.AF_UNIX) as trial:
        trial.bind(fits)
    with socket.socket(socket.AF_UNIX) as trial, pytest.raises(OSError, match="too long"):
        trial.bind(fits + "x")


def test_usual_bases_fit() -> None:
    for base in ("/tmp", "/var/tmp", "/dev/shm", "/tmp/slurm.1234567", "/local_scratch/42"):
        assert len(base) <= paths.temp_base_limit(dashboard=False)


def test_a_longer_limit_than_the_arithmetic_allows_would_not_fit() -> None:
    too_long = "/" + "x" * paths.temp_base_limit(dashboard=False)
    assert len(socket_path(too_long, "plasma_store.1")) > paths.AF_UNIX_LIMIT


@given(st.integers(0, RANK), st.text(alphabet="0123456789abcdef", min_size=8, max_size=8))
def test_private_directories_are_of_one_rank_and_run(rank: int, tail: str) -> None:
    private = paths.private_dir("/tmp/", f"20261121-094408-{tail}", rank)
    assert private == f"/tmp/rh-{tail}-{rank}"
    assert private != paths.private_dir("/tmp", f"20261121-094408-{tail}", rank + 1)


def test_what_lies_where() -> None:
    assert paths.ray_temp_dir("/tmp/p") == "/tmp/p/r"
    assert paths.token_file("/tmp/p") == "/tmp/p/token"
    assert paths.rank_log("/runs/x", 3) == Path("/runs/x/rank-3.log")


def test_the_root_is_a_base() -> None:
    assert paths.private_dir("/", RUN, 0) == "/rh-01234567-0"
