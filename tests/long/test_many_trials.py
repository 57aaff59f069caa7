"""A thousand short trials on one cluster: more than the calls that Ray lets an actor answer at once."""

from __future__ import annotations

import pytest

from tests.launch import Jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_thousand_short_tasks(jobs: Jobs) -> None:
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "sweep.yaml").write_text("command: /bin/true\nsamples: 1000\n")
    job = jobs.start("-m", "rayhpc", "sweep", "run", "sweep.yaml", ranks=4)
    assert job.wait(240) == 0, job.output()
    assert "1000 of 1000 trials" in job.output()
