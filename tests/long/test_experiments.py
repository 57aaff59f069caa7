"""Each experiment of the workbench learns what docs/lab.md says, from its configuration alone, on four ranks."""

from __future__ import annotations

import json

import pytest

from rayhpc.lab.compose import experiments
from tests.launch import Jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("experiment", experiments())
def test_it_learns(jobs: Jobs, experiment: str) -> None:
    job = jobs.start("-m", "rayhpc.lab", "train", f"experiment={experiment}", "run.output=out", ranks=4)
    assert job.wait(3500) == 0, job.output()
    result = json.loads((job.directory / "out" / "result.json").read_text())
    assert result["stop_reason"] == "return", job.output()
