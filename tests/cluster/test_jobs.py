"""Jobs on held clusters, as people use them from a login node: real Ray with its dashboard, on this host."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.launch import Job, Jobs, Mpi, nothing_left, ours, registry_in, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CLUSTERS = int(os.environ.get("RAYHPC_TEST_CLUSTERS", "3"))
TURNS = 15 // CLUSTERS
HOLD = (
    "--hold",
    "--dashboard",
    "--num-cpus=1",
    "--memory=500M",
    "--object-store-memory=100M",
    "--logs=never",
    "--timeout=280",
)
# Another account, which may read our files here: its token file is what counts, not where the interpreter lies.
GUEST = [
    "setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]  # fmt: skip


@dataclass(frozen=True)
class Lab:
    """Some held clusters in one registry, the oldest first, and a login node beside them."""

    mpi: Mpi
    home: Path
    runs: tuple[Job, ...]

    def argv(self, *words: str) -> list[str]:
        return [self.mpi.python, "-m", "rayhpc", *words]

    @property
    def environment(self) -> dict[str, str]:
        # A shell that knows another cluster: what is said or registered wins.
        foreign = {"RAY_ADDRESS": "127.0.0.1:9", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}
        return {**self.mpi.environment, **registry_in(self.home), **foreign, "http_proxy": "http://127.0.0.1:9"}

    def run(self, *words: str, account: Sequence[str] = (), seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """`rayhpc WORDS` to its end."""
        return subprocess.run(
            [*account, *self.argv(*words)], env=self.environment, cwd=self.home, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def submit(self, *words: str) -> list[str]:
        """The ids of what `rayhpc job submit WORDS` has handed in."""
        done = self.run("job", "submit", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def jobs(self, *words: str) -> dict[str, Any]:
        done = self.run("job", "list", "--json", *words)
        assert done.returncode == 0, done.stderr
        return {found["id"]: found for found in json.loads(done.stdout)}

    def entry(self, place: int) -> dict[str, Any]:
        file = self.home / "state" / "clusters" / self.runs[place].run.name / "cluster.json"
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def token(self, place: int) -> Path:
        return self.home / "state" / "clusters" / self.runs[place].run.name / "token"


@pytest.fixture(scope="module")
def lab(dashboard: Mpi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    jobs = Jobs(dashboard, home)
    try:
        for number in range(CLUSTERS):  # two cores would start three at once more slowly than Ray's agents wait
            jobs.start(*HOLD, ranks=0, name=f"c{number}", env=registry_in(home)).until("holding the cluster", 300)
        made = Lab(dashboard, home, tuple(jobs.started))
        assert until(lambda: registered(made) == [run.run.name for run in made.runs], 30)
        yield made
    finally:
        jobs.close()
        for path in home.glob("c?"):
            with nothing_left(path):
                pass


def registered(lab: Lab) -> list[str]:
    return [found["id"] for found in json.loads(lab.run("cluster", "list", "--json").stdout)]


def test_twenty_jobs(lab: Lab) -> None:
    """Paired with three clusters in their listed order, or sent to all; codes and lists tell which was which."""
    file = lab.home / "addresses"
    assert lab.run("cluster", "list", "--address-file", str(file)).returncode == 0
    names = [run.run.name for run in lab.runs]
    assert [line.removeprefix("# Cluster: ") for line in file.read_text().splitlines()[::2]] == names
    ids = []
    for turn in range(TURNS):
        where = ["--address-file", str(file)] if turn else []
        ids += lab.submit(
            "--each", *where, "--", *(f"echo job {turn}-{place}; exit {place}" for place in range(CLUSTERS))
        )
    ids += lab.submit("--all", "--", "sh", "-c", 'echo "$1"', "x", "two  words; $HOME `id`")
    ids += [*lab.submit("--cluster", names[0], "--", "true"), *lab.submit("--", "true")]
    assert len(set(ids)) == (TURNS + 1) * CLUSTERS + 2
    done = lab.run("job", "wait", *ids, seconds=240)
    assert done.returncode == 1, done.stderr  # the first that is not 0
    assert done.stderr.count("SUCCEEDED, exit code 0") == TURNS + CLUSTERS + 2
    jobs = lab.jobs("--all-statuses")
    assert [jobs[name]["exit_code"] for name in ids] == [*range(CLUSTERS)] * TURNS + [0] * (CLUSTERS + 2)
    assert [jobs[name]["cluster"] for name in ids] == names * (TURNS + 1) + [names[0], names[-1]]
    assert list(jobs) == sorted(jobs, key=lambda name: jobs[name]["started_at"])
    assert lab.jobs() == {}
    assert "\njob 3-1\n" in lab.run("job", "logs", ids[3 * CLUSTERS + 1]).stdout
    assert "\ntwo  words; $HOME `id`\n" in lab.run("job", "logs", ids[-3]).stdout


def test_any_address_finds_the_cluster_and_one_word_is_a_line(lab: Lab) -> None:
    """That of the GCS, the dashboard's, a line of another tool's file; a variable; the newest job without an id."""
    name, entry = lab.runs[0].run.name, lab.entry(0)
    address = lab.run("cluster", "address", name).stdout.strip()
    (lab.home / "theirs").write_text(f"# Cluster: theirs\n{address}\n")
    said = (["--address", address], ["--address", entry["dashboard"]], ["--address-file", str(lab.home / "theirs")])
    for words in said:
        done = lab.run("job", "submit", *words, "--", "echo hi; exit 3")
        assert done.returncode == 0, done.stderr
        source = words[1] if "file" in words[0] else words[0]
        assert f" to cluster {name} ({source})\n" in done.stderr
        assert lab.run("job", "wait", *words).returncode == 3
    for word in (address, entry["dashboard"]):
        assert json.loads(lab.run("cluster", "show", word, "--json").stdout)["id"] == name
    shell = ["cluster", "attach", address, "--", lab.mpi.python, "-m", "rayhpc", "job"]
    done = lab.run(*shell, "submit", "--follow", "--", "sh", "-c", "echo up; exit 5")
    assert (done.returncode, f" to cluster {name} (RAYHPC_ADDRESS)\n" in done.stderr) == (5, True), done.stderr
    assert lab.run("job", "logs").stdout == done.stdout
    # Ray 2.60 flushes its own line after it has begun the program: either may come first.
    heading, up = sorted(done.stdout.splitlines()[-2:])
    assert (heading.endswith(": sh -c 'echo up; exit 5'"), up) == (True, "up"), done.stdout


def test_more_jobs_than_clusters_and_one_that_is_gone(lab: Lab) -> None:
    done = lab.run("job", "submit", "--each", "--", *["true"] * (CLUSTERS + 1))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{CLUSTERS + 1} jobs for {CLUSTERS} clusters: nothing was submitted" in done.stderr
    assert lab.jobs() == {}


def test_follow_gives_output_and_code_and_arguments_arrive(lab: Lab) -> None:
    hostile = ["a'; echo foo", "two  words", "line\nbreak", "$HOME `id`", "größe", "--follow", "*", ""]
    show = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]])); sys.exit(7)"
    done = lab.run("job", "submit", "--follow", "--", "python", "-c", show, *hostile)
    assert done.returncode == 7, done.stderr
    assert json.dumps([str(lab.home), hostile]) in done.stdout.splitlines()
    assert done.stderr.splitlines()[-1].endswith("FAILED, exit code 7")


def test_detached_found_again_and_stopped(lab: Lab) -> None:
    """Ctrl-C leaves the job; its log is followed again from the beginning; a stop is waited for."""
    follower = subprocess.Popen(
        lab.argv("job", "submit", "--follow", "--", "sh", "-c", "echo up; exec sleep 300"),
        env=lab.environment, cwd=lab.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout
    assert any(line == "up\n" for line in follower.stdout)
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=30)
    (job,) = lab.jobs()
    assert follower.returncode == 130
    assert f"detached: job {job} goes on\n  rayhpc job logs -f {job}\n" in told
    waiting, *_ = lab.submit("--num-cpus", "2", "--", "echo", "never")
    assert [found["status"] for found in lab.jobs().values()] == ["RUNNING", "PENDING"]
    done = lab.run("job", "stop", waiting)
    assert (done.returncode, "is still PENDING" in done.stderr) == (78, True)
    assert f"job {job} STOPPED, exit code 143" in lab.run("job", "stop", job).stderr
    again = lab.run("job", "logs", "-f", job)
    assert (again.returncode, "\nup\n" in again.stdout) == (0, True)
    assert lab.run("job", "wait", job).returncode == 143


def test_a_job_file_brings_its_files_and_secrets(lab: Lab) -> None:
    place = lab.home / "mounted"
    (lab.home / "data").mkdir()
    (lab.home / "data" / "x").write_text("content")
    (lab.home / ".env").write_text("KEY=s3cr3t-value\n")
    (lab.home / "job.yaml").write_text(
        f"command: cat {place}/x; test $KEY = $WANTED && echo known; exit 5\n"
        f"file_mounts: {{data: {place}}}\n"
        "init_commands: ['WANTED=s3cr3t-value']\n"
        "environment: {KEY: '${KEY}'}\n"
    )
    done = lab.run("job", "submit", "--config", "job.yaml", "--follow")
    assert done.returncode == 5, done.stderr
    assert "contentknown\n" in done.stdout
    assert not place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a second account submits")
def test_a_colleague_with_the_token_file(lab: Lab) -> None:
    """Submits and lists; stops nothing of mine by accident, and with --force what she wants."""
    (mine,) = lab.submit("--cluster", lab.runs[0].run.name, "--", "sleep", "300")
    target = ["--address", lab.entry(0)["dashboard"], "--token-file", str(lab.token(0))]

    def guest(*words: str) -> subprocess.CompletedProcess[str]:
        return lab.run("job", *words, *target, account=[*GUEST, "env", f"RAYHPC_STATE_DIR={lab.home}/empty"])

    done = lab.run("job", "submit", *target, "--", "sleep", "300", account=GUEST)
    assert done.returncode == 0, done.stderr
    hers = done.stdout.strip()
    assert f"rayhpc job stop {hers} {shlex.join(target)}" in done.stderr
    assert [line.split("\t")[:2] for line in guest("list").stdout.splitlines()[1:]] == [[hers, "nobody"]]
    everybody = guest("list", "--all-users").stdout
    assert (mine in everybody, hers in everybody) == (True, True)
    done = guest("stop", mine, hers)
    assert (done.returncode, f"job {mine} is not yours: nothing was stopped" in done.stderr) == (78, True)
    states = lambda: {found["status"] for name, found in lab.jobs("--all-users").items() if name in (mine, hers)}  # noqa: E731
    assert until(lambda: states() == {"RUNNING"}, 30), states()
    assert lab.run("job", "stop", hers).returncode == 78
    done = guest("stop", "--force", mine, hers)
    assert done.stderr.count("STOPPED, exit code 143") == 2, done.stderr


def test_a_wrong_token(lab: Lab) -> None:
    wrong = ["--address", lab.entry(0)["dashboard"], "--token-file", str(lab.token(1))]
    for verb in (["list"], ["submit"], ["stop", "x"], ["logs", "x"], ["wait", "x"]):
        done = lab.run("job", *verb, *wrong, *(["--", "true"] if verb == ["submit"] else []))
        assert done.returncode == 78
        assert "refuses the token" in done.stderr
        assert "next: each run has a token of its own" in done.stderr
        assert lab.token(1).read_text().strip() not in done.stdout + done.stderr


def test_a_dashboard_that_hangs(lab: Lab) -> None:
    daemons = [pid for pid, command in ours([lab.runs[-1].run.name]) if "dashboard/dashboard.py" in command]
    assert len(daemons) == 1
    os.kill(daemons[0], signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = lab.run("job", "submit", "--", "true")
        assert (done.returncode, done.stdout) == (78, "")
        assert (
            f"the dashboard of cluster {lab.runs[-1].run.name} does not answer, though the cluster runs" in done.stderr
        )
        assert time.monotonic() - began < 40
        done = lab.run("job", "list", "--all-users", "--all-statuses")
        assert (done.returncode, len(done.stdout.splitlines()) > 1) == (78, True)  # the others tell theirs
    finally:
        os.kill(daemons[0], signal.SIGCONT)


def test_a_cluster_that_is_gone(lab: Lab) -> None:
    """Its host died with it, so its entry stays: jobs that are waited for end the waiting."""
    done, job = [*lab.submit("--", "true"), *lab.submit("--", "sleep", "300")]
    assert lab.run("job", "wait", done).returncode == 0
    entry = lab.token(-1).parent
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(entry, f"{kept}/entry")
        waiter = subprocess.Popen(
            lab.argv("job", "wait", done, job), env=lab.environment, stderr=subprocess.PIPE, text=True
        )
        assert waiter.stderr
        assert waiter.stderr.readline() == f"job {done} SUCCEEDED, exit code 0\n"
        lab.runs[-1].process.send_signal(signal.SIGTERM)
        assert lab.runs[-1].wait(60) == 0
        shutil.copytree(f"{kept}/entry", entry)
    _, told = waiter.communicate(timeout=60)
    assert waiter.returncode == 78
    gone = f"cluster {lab.runs[-1].run.name} is gone, and its jobs with it"
    assert gone in told
    for text in (lab.run("job", "list").stderr, lab.run("job", "submit", "--", "true").stderr):
        assert gone in text
        assert "Connection refused" in text
        assert f"rayhpc cluster forget {lab.runs[-1].run.name}" in text
    assert lab.run("cluster", "forget", "--force", lab.runs[-1].run.name).returncode == 0
