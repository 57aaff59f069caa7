"""The experiments: each is a configuration that RLlib accepts, and docs/lab.md tells what it reached."""

from __future__ import annotations

import pytest

from rayhpc.lab.compose import Source, experiments
from rayhpc.lab.settings import read
from rayhpc.lab.train import plan_of
from rayhpc.rllib.errors import UsageError
from tests.launch import REPOSITORY


@pytest.mark.parametrize("experiment", experiments())
def test_rllib_accepts_it_and_a_key_after_it_changes_one(experiment: str) -> None:
    settings = read(Source((f"experiment={experiment}", "stop.iterations=7")))
    plan = plan_of(settings)
    assert plan.stop.iterations == 7
    assert plan.stop.mean_return is not None
    assert f"| `{experiment}` |" in (REPOSITORY / "docs" / "lab.md").read_text()


def test_an_experiment_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"experiment=nonsense: experiment is a group of files in .*: cartpole-appo, "):
        read(Source(("experiment=nonsense",)))
