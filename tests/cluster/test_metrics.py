"""--metrics without a Prometheus, and with one that ends by itself; what it collects: tests/slurm/test_metrics.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import Jobs

pytestmark = pytest.mark.cluster


def test_without_prometheus_nothing_is_started(jobs_with_dashboard: Jobs) -> None:
    job = jobs_with_dashboard.start(
        "--metrics", "/bin/true", ranks=2, env={"RAYHPC_PROMETHEUS": "/nowhere/prometheus"}
    )
    assert job.wait() == 78
    assert "there is no Prometheus here: /nowhere/prometheus" in job.output()
    assert "head" not in job.output()


def test_a_prometheus_that_ends_ends_no_run(jobs_with_dashboard: Jobs, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no space left\nexit 3\n")
    broken.chmod(0o755)
    script = tmp_path / "driver.py"
    script.write_text("import ray; ray.init(); print('nodes', len(ray.nodes()))")
    job = jobs_with_dashboard.start("--metrics", str(script), ranks=2, env={"RAYHPC_PROMETHEUS": str(broken)})
    assert job.wait() == 0, job.output()
    assert "nodes 2" in job.output()
    assert "no metrics from here on: Prometheus: it ended with 3" in job.output()
    assert "no space left" in job.output()
    assert "metrics" not in job.record("outcome.json")
