"""When it stops, with which exit code, and where env runners go."""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace

import pytest

from rayhpc.rllib.cluster import check_reachable
from rayhpc.rllib.command_line import stop_conditions
from rayhpc.rllib.deadline import end_of_job, next_iteration_fits
from rayhpc.rllib.env_runners import env_runner_shares, episode_returns_logger
from rayhpc.rllib.errors import UsageError, exit_code
from rayhpc.rllib.metrics import Row, best_return
from rayhpc.rllib.stop import reached

from .making import options, row


@pytest.mark.parametrize(
    ("arguments", "last", "reason"),
    [
        ([], row(1), None),
        ([], row(1, mean=450), "return"),
        ([], row(1, mean=500, episodes=99), None),
        ([], row(1, mean=math.nan), None),
        ([], row(200), "iterations"),
        (["--stop-timesteps", "8000"], row(2), "timesteps"),
        (["--stop-timesteps", "8001"], row(2), None),
        (["--stop-minutes", "0.5"], row(15), "minutes"),
        (["--stop-minutes", "0.5"], row(14), None),
    ],
)
def test_stop_conditions(arguments: list[str], last: Row, reason: str | None) -> None:
    assert reached(stop_conditions(options(*arguments), 450.0), [last]) == reason


def test_nothing_is_reached_before_training() -> None:
    assert reached(stop_conditions(options(), 450.0), []) is None
    assert reached(stop_conditions(options(), None), [row(1, mean=1e9)]) is None


@pytest.mark.parametrize(
    ("seconds", "left", "fits"),
    [
        ([], 16, True),
        ([], 14, False),
        ([10, 20, 30], 31, True),
        ([10, 20, 30], 29, False),
        ([10, 50, 60], 76, True),  # the longest of the three took 40 s
        ([10, 50, 60], 74, False),
        ([1000, *range(1001, 1011)], 17, True),  # a slow first iteration, eleven ago, is forgotten
    ],
)
def test_the_next_iteration_must_fit_before_the_deadline(seconds: list[float], left: float, fits: bool) -> None:
    rows = [row(number, seconds=ended) for number, ended in enumerate(seconds, 1)]
    assert next_iteration_fits(rows, 5000.0 + left, 5000.0, 0.0) is fits


def test_the_deadline_leaves_time_for_two_checkpoints() -> None:
    assert next_iteration_fits([], 36.0, 0.0, 10.0)
    assert not next_iteration_fits([], 34.0, 0.0, 10.0)
    assert next_iteration_fits([row(1)], math.inf, 0.0, 1e9)


@pytest.mark.parametrize(
    ("reason", "best", "required", "code"),
    [
        ("return", 450, None, 0), ("iterations", 20, None, 0), ("iterations", 20, 100, 1),
        ("iterations", math.nan, 100, 1),
        ("return", 450, 450, 0), ("minutes", 20, 20, 0), ("signal", 20, 100, 75), ("deadline", 500, 100, 75),
        ("interrupt", 20, 100, 130),
    ],
)  # fmt: skip
def test_exit_codes(reason: str, best: float, required: float | None, code: int) -> None:
    assert exit_code(reason, best, required) == code


@pytest.mark.parametrize(
    ("cpus", "wanted", "shares"),
    [
        ([1, 1, 1, 1], None, [0, 1, 1, 1]),
        ([1], None, [0]),
        ([2], None, [1]),
        ([2], 2, [2]),
        ([4, 4], None, [3, 4]),
        ([0, 4], None, [0, 4]),  # a head without CPUs
        ([4, 4, 4], 4, [1, 2, 1]),
        ([4, 4, 4], 2, [0, 1, 1]),
        ([4, 4], 0, [0, 0]),
        ([4, 1, 1], 4, [2, 1, 1]),
        ([64, 64, 64, 64], None, [7, 8, 8, 8]),  # as many as the batch has work for
        ([], None, []),
    ],
)
def test_env_runners_are_spread(cpus: list[int], wanted: int | None, shares: list[int]) -> None:
    assert env_runner_shares(cpus, wanted, most=31) == shares


def test_more_env_runners_than_cpus_would_wait_for_ever() -> None:
    with pytest.raises(UsageError, match="the cluster has 4 CPUs"):
        env_runner_shares([1, 1, 1, 1], 5, most=31)


def test_the_best_return_is_that_of_a_full_window() -> None:
    rows = [row(1, mean=900, episodes=99), row(2, mean=300, episodes=120), row(3, mean=200)]
    assert best_return(rows) == 300
    assert math.isnan(best_return(rows[:1]))


def test_parts_of_an_episode_are_summed_up() -> None:
    logged: list[float] = []
    metrics = SimpleNamespace(log_value=lambda _key, value, **_: logged.append(value))
    log = episode_returns_logger()

    def part(name: str, reward: float, done: bool) -> SimpleNamespace:
        return SimpleNamespace(id_=name, is_done=done, get_return=lambda: reward)

    log(samples=[part("a", 5, False), part("b", 1, True)], metrics_logger=metrics, env_runner=None)
    log(samples=[part("a", 7, False), part("c", 2, True)], metrics_logger=metrics)
    log(samples=[part("a", 1, True)], metrics_logger=metrics)
    assert logged == [1, 2, 13]


def test_a_deadline_that_is_no_number_is_the_users_to_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_DEADLINE", "1750000000")
    assert end_of_job() == 1_750_000_000
    monkeypatch.setenv("RAYHPC_DEADLINE", "soon")
    with pytest.raises(UsageError, match="RAYHPC_DEADLINE: 'soon'"):
        end_of_job()


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_reachable(address)
    with pytest.raises(UsageError, match=address):
        check_reachable(address)
    for other in ("", "auto", "local", "ray://head:10001"):
        check_reachable(other)
