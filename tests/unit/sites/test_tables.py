"""The shipped tables are whole, docs/sites.md is theirs, and a user's own replaces or extends them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.sites import load
from rayhpc.sites.table import Queue, Site

ROOT = Path(__file__).parents[3]
NAMES = sorted(file.stem for file in load.SHIPPED.glob("*.yaml"))
OWN = """
title: Ours
source: [https://docs.example.org/cluster]
date: 2026-01-31
scheduler: slurm
queues: {short: {limits: {1-4: 01:00:00}}}
"""


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """An environment with a folder for a user's own tables."""
    (tmp_path / "rayhpc" / "sites").mkdir(parents=True)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(environ: dict[str, str], name: str, text: str) -> None:
    (load.own_folder(environ) / f"{name}.yaml").write_text(text)


def refused(name: str, environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(RayhpcError) as caught:
        load.find(name, environ)
    return (caught.value.fault.what, *caught.value.fault.evidence)


def test_there_are_the_great_ones() -> None:
    assert {"polaris", "aurora", "perlmutter", "frontier", "lumi", "leonardo", "jean-zay"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_whole(name: str, own: dict[str, str]) -> None:
    site = load.find(name, own)
    assert site.file == ""
    assert any(not queue.only_named for queue in site.queues)
    for queue in site.queues:
        (first, *rest) = queue.limits
        for before, after in zip([first, *rest], rest, strict=False):
            assert before.most is not None and after.least == before.most + 1, queue.words
        assert all(60 <= limit.seconds <= 7 * 86400 for limit in queue.limits)
    assert site.gpu_variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def test_every_key_is_a_field() -> None:
    assert {field.name for field in fields(Site)} == {*load.KEYS, "name", "file"} - {"extends"}
    assert {field.name for field in fields(Queue)} == {*load.QUEUE_KEYS, "name"}


def test_the_page_is_made_from_the_tables() -> None:
    command = [sys.executable, "packaging/docs/sites_page.py"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "docs" / "sites.md").read_text(), "python packaging/docs/sites_page.py > docs/sites.md"
    assert all(f"`{key}`" in made for key in (*load.KEYS, "limits", "only_named")), "a key is not described"


def test_aurora_and_frontier_have_what_a_job_sees(own: dict[str, str]) -> None:
    aurora, frontier = load.find("aurora", own), load.find("frontier", own)
    assert (aurora.gpus, aurora.variables) == (12, {"ZE_FLAT_DEVICE_HIERARCHY": "FLAT"})
    assert (frontier.gpus, frontier.cpus) == (8, 56)


def test_ones_own(own: dict[str, str]) -> None:
    write(own, "ours", OWN)
    site = load.find("ours", own)
    assert (site.title, site.scheduler, site.queues[0].words) == ("Ours", "slurm", "short: 1-4 hosts for 01:00:00")
    assert site.file == f"{own['XDG_CONFIG_HOME']}/rayhpc/sites/ours.yaml"
    assert load.names(own) == sorted([*NAMES, "ours"])


def test_ones_own_extends_and_replaces(own: dict[str, str]) -> None:
    write(own, "polaris", "extends: polaris\nmodules: [load mine]\n")
    write(own, "tiny", "extends: polaris\nqueues: {debug: {limits: {1: 00:10:00}}}\n")
    shipped = load.find("polaris", {"XDG_CONFIG_HOME": "/nowhere"})
    mine, tiny = load.find("polaris", own), load.find("tiny", own)
    assert (mine.modules, mine.queues, mine.name) == (("load mine",), shipped.queues, "polaris")
    # What is extended is one's own, where there is one.
    assert (tiny.modules, [queue.words for queue in tiny.queues]) == (("load mine",), ["debug: 1 host for 00:10:00"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (OWN.replace("slurm", "slrum"), "scheduler must be one of slurm, pbs, torque, cobalt, lsf, sge, flux"),
        (OWN.replace("2026-01-31", "January"), "date must be like 2026-08-19, not 'January'"),
        (OWN.replace("https:", "see "), "source must be like https://docs.example.org/queues"),
        (OWN.replace("1-4", "some"), "limits: hosts must be like 1-10 or 128-, not 'some'"),
        (OWN.replace("01:00:00", "long"), "limits of 1-4: 'long' is no duration"),
        (OWN.replace("{limits: {1-4: 01:00:00}}", "{}"), "short needs limits"),
        (OWN.replace("limits", "limit"), "unknown key limit: is it limits?"),
        (OWN + "cpus: 2.5\n", "cpus must be a whole number from 0 on, not 2.5"),
        (OWN + "ask: [memory]\n", "an entry of ask must be one of cpus, gpus, not 'memory'"),
        (OWN + "internet: often\n", "internet must be one of yes, no, proxy, not 'often'"),
        (OWN.replace("short: {", "short: {only_named: perhaps, "), "only_named must be true or false, not 'perhaps'"),
        ("title: Ours\n", "missing: source, date, scheduler, queues; or extends: another site"),
        ("extends: ours\n", "extends: there is no other table of 'ours'"),
        ("extends: nowhere\n", "extends: there is no other table of 'nowhere'"),
        ("title: [\n", "broken YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, problem: str, own: dict[str, str]) -> None:
    write(own, "ours", text)
    what, *lines = refused("ours", own)
    assert what.endswith("ours.yaml cannot be used: 1 problem")
    assert problem in lines[0]
    assert lines[0].startswith(f"{own['XDG_CONFIG_HOME']}/rayhpc/sites/ours.yaml:")


def test_two_that_extend_each_other_end(own: dict[str, str]) -> None:
    write(own, "one", "extends: two\n")
    write(own, "two", "extends: one\n")
    assert "there is no other table of 'one'" in " ".join(refused("one", own))


def test_an_unknown_name(own: dict[str, str]) -> None:
    with pytest.raises(RayhpcError) as caught:
        load.find("polarris", own)
    assert caught.value.fault.code is ExitCode.USAGE
    assert caught.value.fault.next_step == "did you mean polaris?"


def test_a_machine_is_known_by_what_it_sets_and_nothing_else(own: dict[str, str]) -> None:
    found = load.here({**own, "NERSC_HOST": "perlmutter"})
    assert found is not None
    assert found.name == "perlmutter"
    assert load.here({**own, "NERSC_HOST": "cori"}) is None
    assert load.here({**own, "HOSTNAME": "polaris-login-01"}) is None
    named = load.here({**own, "NERSC_HOST": "perlmutter", "RAYHPC_SITE": "lumi"})
    assert named is not None
    assert named.name == "lumi"
