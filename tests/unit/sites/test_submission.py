"""`rayhpc alloc submit --site`, `init --site` and `sites`, over scheduler commands that are real executables."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from rayhpc.sites import load
from tests.unit.batch_fakes import Login, login_node


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """A login node of a Slurm and a PBS that accept everything."""
    login = login_node(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    login.fake("sbatch", "echo 17")
    login.fake("qsub", "echo 17.server")
    return login


def submitted(login: Login, site: str, *words: str) -> str:
    """What the scheduler got, as one line; the driver is ./driver."""
    done = login.rayhpc("submit", "--site", site, *words, "--", "./driver", "a b")
    assert done.exit_code == 0, done.output
    (call,) = login.calls("sbatch") + login.calls("qsub")
    return " ".join(call)


@pytest.mark.parametrize(
    ("site", "words", "expected"),
    [
        ("polaris", "-N 1 -t 30", "-l select=1:ncpus=64 -l walltime=00:30:00 -q debug -j oe"),
        ("polaris", "-N 12 -t 120 -A p", "-l select=12:ncpus=64 -l walltime=02:00:00 -A p -q prod -j oe"),
        ("polaris", "-N 2 -t 600", "-l select=2:ncpus=64 -l walltime=10:00:00 -q capacity -j oe"),
        ("polaris", "-N 2 -t 60 -q preemptable --cpus-per-node 8", "-l select=2:ncpus=8 -l walltime=01:00:00"),
        ("aurora", "-N 300 -t 120", "-l select=300:ncpus=208 -l walltime=02:00:00 -q prod -j oe"),
        ("perlmutter", "-N 4 -t 30", "--nodes=4 --time=00:30:00 --gpus-per-node=4"),
        ("frontier", "-N 100 -t 300", "--nodes=100 --time=05:00:00 --partition=batch --output"),
        ("frontier", "-N 2 -t 300", "--nodes=2 --time=05:00:00 --partition=extended --output"),
        ("lumi", "-N 2 -t 60", "--nodes=2 --time=01:00:00 --partition=standard-g --gpus-per-node=8 --output"),
        ("lumi", "-N 2 -t 3000", "--nodes=2 --time=50:00:00 --partition=small-g --gpus-per-node=8 --output"),
        ("lumi", "-N 2 -t 60 -q standard", "--nodes=2 --time=01:00:00 --partition=standard --output"),
        ("leonardo", "-N 2 -t 60 --gpus-per-node 1", "--partition=boost_usr_prod --gpus-per-node=1 --output"),
    ],
)
def test_the_queue_is_chosen_by_hosts_and_time(login: Login, site: str, words: str, expected: str) -> None:
    call = submitted(login, site, *words.split())
    assert expected in call.replace(":mpiprocs=1", "")


def test_a_scheduler_is_no_site(login: Login) -> None:
    done = login.rayhpc("submit", "--site", "slurm", "-N", "1", "--", "./driver")
    assert done.exit_code == 2, done.output
    assert "there is no table of a site 'slurm'" in done.output
    assert not login.calls("sbatch")


def test_a_quality_of_service_and_ones_own_flags(login: Login) -> None:
    call = submitted(login, "perlmutter", "-N", "16", "-t", "60", "--directive", "--qos=special")
    assert "--partition" not in call
    assert "--qos=regular --constraint=gpu --qos=special " in call  # the last one counts for Slurm


def test_what_is_required_stands_in_the_script(login: Login) -> None:
    """A PBS job that submits its own script again needs it, too."""
    submitted(login, "polaris", "-N", "2", "-t", "30")
    script = (login.directory / "pbs.pbs").read_text()
    assert script.index("\n#PBS -l filesystems=home:eagle\n") < script.index("\nfail() {")
    assert script.index("module load conda\n") < script.index("trap - ERR")


def facts_of(login: Login, **environment: str) -> dict[str, str]:
    """What a job of the site finds, by running the part of its script that is the site's."""
    script = (login.directory / "pbs.pbs").read_text()
    part = script[script.index("\n# ---- the site's facts") : script.index("\ntrap - ERR")]
    command = f"module() {{ echo module $*; }}\n{part}\nenv"
    subprocess.run(["bash", "-c", command], env={"PATH": os.environ["PATH"], **environment}, check=True)
    output = (login.directory / "job.out").read_text()
    assert "module load conda\n" in output
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def test_the_job_finds_the_sites_facts_where_nobody_has_said_else(login: Login) -> None:
    submitted(login, "polaris", "-N", "2", "-t", "30")
    found = facts_of(login, https_proxy="http://mine:1")
    assert (found["RAYHPC_SITE"], found["RAYHPC_INTERFACE"]) == ("polaris", "hsn*")
    assert (found["http_proxy"], found["https_proxy"]) == ("http://proxy.alcf.anl.gov:3128", "http://mine:1")


def test_a_setting_of_the_users_shell_counts(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_INTERFACE", "eth7")
    submitted(login, "polaris", "-N", "2", "-t", "30")
    assert facts_of(login)["RAYHPC_INTERFACE"] == "eth7"


@pytest.mark.parametrize(
    ("words", "what", "next_step"),
    [
        ("-N 12 -t 300", "no queue of polaris takes 12 hosts for 05:00:00", "ask for fewer hosts or less time"),
        ("-N 500 -t 60", "no queue of polaris takes 500 hosts for 01:00:00", "ask for fewer hosts or less time"),
        ("-N 8 -t 90", "no queue of polaris takes 8 hosts for 01:30:00", "-q preemptable takes it"),
        ("-N 2 -t 90 -q debug", "the queue debug of polaris does not take 2 hosts for 01:30:00", "-q capacity or"),
        ("-N 2 -t 30 -q debg", "the table of polaris has no queue debg", "did you mean debug?"),
        ("-N 2 -t 30 -q zzz", "the table of polaris has no queue zzz", "name one of them, or add it"),
        ("-N 2", "--site polaris needs -N and -t", "say both"),
        ("-t 30", "--site polaris needs -N and -t", "say both"),
        ("-N 2 -t soon", "'soon' is no time limit", "-t 90, or -t 01:30:00"),
        ("-N 2 -t 30 --gpus-per-node 5", "hosts of the queue debug have 4 GPUs, and 5 were asked for", "4; if the"),
        ("-N 2 -t 30 --cpus-per-node 65", "hosts of the queue debug have 64 CPUs, and 65 were asked", "64; if the"),
    ],
)
def test_what_the_site_would_refuse_is_not_submitted(login: Login, words: str, what: str, next_step: str) -> None:
    done = login.rayhpc("submit", "--site", "polaris", *words.split(), "--", "./driver")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"rayhpc: {what}")
    assert f"next: {next_step}" in done.stderr or next_step in done.stderr
    assert login.calls("qsub") == []
    assert not (login.home / "rayhpc-runs").exists()


def test_a_dry_run_shows_what_the_table_makes(login: Login) -> None:
    done = login.rayhpc("submit", "--site=aurora", "-N", "2", "-t", "30", "--dry-run", "--", "./driver")
    assert done.stdout.startswith("qsub -l select=2:ncpus=208")
    for line in ("#PBS -l filesystems=home:flare", "module load frameworks", "RAYHPC_SITE=aurora"):
        assert line in done.stdout
    assert "aurora: queue debug: 1-2 hosts for 01:00:00" in done.stderr
    assert login.calls("qsub") == []


def test_ones_own_script_has_the_facts_too(login: Login) -> None:
    submitted(login, "perlmutter", "-N", "2", "-t", "30", "--script", str(login.script))
    script = (login.directory / "own.sh").read_text()
    assert script.index("RAYHPC_RUN_DIR") < script.index("RAYHPC_SITE=perlmutter") < script.index("set -- ./driver")


def test_options_without_a_scheduler_or_a_site(login: Login) -> None:
    done = login.rayhpc("submit", "-N", "2", "--", "./driver")
    assert (done.exit_code, "Missing option '--site'" in done.stderr) == (2, True)
    assert login.rayhpc("submit", "--help").exit_code == 0


@pytest.mark.parametrize("site", load.names({"XDG_CONFIG_HOME": "/nowhere"}))
def test_a_script_to_edit(login: Login, site: str) -> None:
    done = login.rayhpc("init", "--site", site)
    assert done.exit_code == 0, done.output
    script = login.home / done.stdout.strip()
    text = script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    prefix = "#SBATCH" if script.suffix == ".sbatch" else "#PBS"
    said = [line.partition("=")[0] for line in text.splitlines() if line.startswith(prefix)]
    assert len(said) == len(set(said)), "a directive is there twice"
    assert re.search(rf"^{prefix} (-q \S+|--partition=\S+|--qos=\S+)$", text, re.MULTILINE)
    assert all(f"\n# {queue.words}\n" in text for queue in load.find(site, {}).queues)


def test_init_wants_one_of_both(login: Login) -> None:
    assert login.rayhpc("init").exit_code == 2
    assert login.rayhpc("init", "slurm", "--site", "lumi").exit_code == 2


def test_the_list(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERSC_HOST", "perlmutter")
    done = login.rayhpc("sites")
    assert done.exit_code == 0
    assert "(you are here)" in next(line for line in done.stdout.splitlines() if line.startswith("perlmutter"))
    one = login.rayhpc("sites", "polaris").stdout
    for text in ("prod: 10-24 hosts for 03:00:00", "-l filesystems=home:eagle", "module load conda", "2026-08-19"):
        assert text in one
    assert [site["name"] for site in json.loads(login.rayhpc("sites", "lumi", "--json").stdout)] == ["lumi"]


def test_a_broken_table_of_ones_own_hides_no_other(login: Login) -> None:
    own = load.own_folder(os.environ)
    own.mkdir(parents=True)
    (own / "ours.yaml").write_text("title: [")
    done = login.rayhpc("sites")
    assert done.exit_code == 78
    assert "polaris" in done.stdout
    assert "ours.yaml cannot be used" in done.stderr
