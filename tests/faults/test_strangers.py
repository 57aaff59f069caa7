"""Strangers: other jobs and other accounts, on the same host and on another one, find nothing of a run open."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayhpc.processes.keeper import descendants
from tests.faults.cells import STRANGERS, Cell, met
from tests.launch import Job, Jobs, Mpi, installed, nothing_left, ours, registry_in, skip
from tests.slurm.slurm_cluster import SlurmCluster, poll, virtual_cluster, why_unavailable

PROGRAM = Path(__file__).with_name("stranger.py")
STARTS = int(os.environ.get("RAYHPC_TEST_STARTS", "30"))
WORK = """
import pathlib, ray, sys, time
ray.init(log_to_driver=False)
@ray.remote(scheduling_strategy="SPREAD")
def one(n): return n
done = 0
while not pathlib.Path("stop").exists():
    done += len(ray.get([one.remote(n) for n in range(4)]))
    print("done", done, "nodes", sum(node["Alive"] for node in ray.nodes()), flush=True)
    time.sleep(0.05)
sys.exit(7)
"""
DRIVER = ("--", "python", "-c", WORK)
# gRPC's codes: a call without the token; a method that this server does not have.
UNAUTHENTICATED, UNIMPLEMENTED = "16", "12"
# What Ray answers to everybody: docs/security.md says so.
OPEN = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
# Streams between raylets, which are no calls with one answer.
STREAMS = {"/ray.rpc.syncer.RaySyncer/StartSync"}
PAGES = ["/", "/metrics", "/api/version", "/api/jobs/", "/nodes", "/get_or_create_runtime_env"]
NODES_OF = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a second account is made and removed")


# In a mount namespace of the command's own: covers $1 with an empty directory in which $2 alone is seen again.
UNCOVER = """
set -e
mount --bind "$2" /mnt
mount -t tmpfs -o mode=755 none "$1"
mkdir -p "$2"
mount --bind /mnt "$2"
umount /mnt
shift 2
exec "$@"
"""


def uncovered(python: str) -> list[str]:
    """What lets other accounts run an interpreter that lies in somebody's closed home; nothing where it does not."""
    home = Path(python).resolve().parents[1]
    closed = next((path for path in reversed(home.parents) if not path.stat().st_mode & 0o001), None)
    return ["unshare", "--mount", "sh", "-c", UNCOVER, "sh", str(closed), str(home)] if closed else []


@dataclass(frozen=True)
class Account:
    """Another account of this host, with a home directory of its own."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def prefix(self) -> list[str]:
        """What makes a command this account's."""
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        start = uncovered(installed("mpich").python)
        return [*start, "setpriv", *ids, "env", f"HOME={self.home}", f"USER={self.name}", f"LOGNAME={self.name}"]

    def tries(self, order: dict[str, Any]) -> dict[str, Any]:
        """What stranger.py finds as this account."""
        argv = [*self.prefix, "env", "-i", installed("mpich").python, "-I", str(self.home / PROGRAM.name)]
        done = subprocess.run(
            argv, input=json.dumps(order), capture_output=True, text=True, timeout=200, cwd="/", check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["uid"] == self.uid
        return found

    def runs(self, code: str, mpi: str = "mpich", **variables: str) -> subprocess.CompletedProcess[str]:
        """Python code in an environment that holds nothing but these variables."""
        settings = [f"{name}={value}" for name, value in {"HOME": str(self.home), **variables}.items()]
        argv = [*self.prefix, "env", "-i", *settings, installed(mpi).python, "-c", code]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd="/", check=False)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """A second account for this module; removed with its home, also after failures."""
    name, home = f"rhs{os.getpid()}", Path(tempfile.mkdtemp(prefix="rhs-", dir="/var/tmp"))
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    try:
        entry = pwd.getpwnam(name)
        made = Account(name, entry.pw_uid, entry.pw_gid, home)
        shutil.copy(PROGRAM, home)
        os.chown(home, made.uid, made.gid)
        trial = made.runs("import ray")
        if trial.returncode:
            pytest.skip(f"another account cannot run {installed('mpich').python}: {trial.stderr[-200:]}")
        yield made
    finally:
        subprocess.run(["userdel", name], check=True)
        shutil.rmtree(home)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory into which every account may look: pytest's own is closed, and would hide what we leave open."""
    path = Path(tempfile.mkdtemp(prefix="rhs-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def jobs_in(mpi: Mpi, directory: Path) -> Iterator[Jobs]:
    """Jobs below a directory, of whatever account; afterwards nothing of them is left."""
    jobs = Jobs(mpi, directory)
    try:
        yield jobs
    finally:
        jobs.close()
        for path in [path for path in directory.iterdir() if path.is_dir()]:
            with nothing_left(path):
                pass


def launch_as(jobs: Jobs, account: Account, *words: str, name: str) -> Job:
    """A job of two ranks, started by another account."""
    directory = jobs.directory / name
    directory.mkdir()
    os.chown(directory, account.uid, account.gid)
    start = [*jobs.mpi.mpirun, "-np", "2", jobs.mpi.python, "-m", "rayhpc.start", *words]
    return jobs.start_raw(*account.prefix, *start, name=name)


# ------------------------------------------------------------------------------------------------- side by side


@pytest.mark.parametrize("whose", ["one user", pytest.param("two users", marks=pytest.mark.quick)])
@pytest.mark.parametrize("ends", ["stopped", pytest.param("killed", marks=pytest.mark.quick)])
def test_one_job_ends_while_another_works(account: Account, whose: str, ends: str) -> None:
    mpich = installed("mpich")
    turn = uuid.uuid4().hex[:6]  # make test-soak asks it several times, and the account's home stays
    with jobs_in(mpich, account.home) as jobs:
        ending = jobs.start(*DRIVER, ranks=2, name=f"ending-{turn}")
        name = f"working-{turn}"
        working = launch_as(jobs, account, *DRIVER, name=name) if whose == "two users" else jobs.start(
            *DRIVER, ranks=2, name=name
        )  # fmt: skip
        ending.until(r"done 8 nodes 2\n")
        done = int(working.until(r"done (\d+) nodes 2\n").group(1))
        began = time.monotonic()
        if ends == "stopped":
            ending.process.terminate()
            code = ending.wait(30)
            assert code == 143, ending.output()  # Ray's own handler of SIGTERM ends the driver with 15
        else:
            ending.process.kill()
            ending.wait(30)
        with nothing_left(ending.directory):
            seconds = time.monotonic() - began
        more = 40 + max(int(count) for count in re.findall(r"done (\d+) ", working.output()))
        working.until(rf"done {more} nodes 2\n")
        (working.directory / "stop").touch()
        assert working.wait(30) == 7, working.output()
        assert more > done
        assert "nodes 1\n" not in working.output()
        assert "LOST" not in working.output()
        assert working.record("outcome.json")["fault"] is None
    what = f"two jobs of {whose} on one host, one is {ends} while the other works"
    met(Cell(STRANGERS, what, "the other goes on with all its nodes and ends with its driver's code", seconds, 15))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("starts", [pytest.param(4, marks=pytest.mark.quick), STARTS])
def test_starts_two_at_a_time(jobs: Jobs, starts: int) -> None:
    def run(number: int) -> Job:
        job = jobs.start("/bin/true", ranks=2, name=f"start{number}")
        job.wait(200)
        return job

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(run, range(starts)))
    assert [job.ended for job in made] == [0] * starts, [job.output() for job in made if job.ended]
    assert not [job.output() for job in made if "in use" in job.output()]
    retried = sum(event["stage"] == "port taken" for job in made for event in job.events())
    outcome = f"all end with 0, no port collision reaches the user ({retried} met within and answered)"
    met(Cell(STRANGERS, f"{starts} starts in a row, two at a time", outcome, time.monotonic() - began))


# ------------------------------------------------------------------------- one run, seen from another account


@dataclass(frozen=True)
class Running:
    """A run at work, under umask 000 and with core files allowed, of a user who once has used ray.init() alone."""

    job: Job
    home: Path
    pids: tuple[int, ...]

    @property
    def address(self) -> str:
        return str(self.job.record("cluster.json")["nodes"][0]["address"])

    @property
    def gcs(self) -> str:
        return f"{self.address}:{self.job.record('cluster.json')['port']}"

    @property
    def dashboard(self) -> str:
        """Where the dashboard listens, of a run that has one."""
        return f"{self.address}:{self.job.record('cluster.json')['dashboard_port']}"

    @property
    def private(self) -> list[Path]:
        return [Path(node["temp_dir"]) for node in self.job.record("cluster.json")["nodes"]]

    @property
    def token(self) -> str:
        return (self.private[0] / "token").read_text()


LOCAL_TOKEN = "0123456789abcdef" * 4


@contextmanager
def started(directory: Path, *options: str, mpi: str = "mpich") -> Iterator[Running]:
    """Such a run with two ranks, once its driver works."""
    home = directory / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(LOCAL_TOKEN)
    with jobs_in(installed(mpi), directory) as jobs:
        start = [*jobs.mpi.mpirun, "-np", "2", jobs.mpi.python, "-m", "rayhpc.start", *options, *DRIVER]
        shell = ["sh", "-c", 'umask 000; ulimit -S -c unlimited; exec "$@"', "sh"]
        job = jobs.start_raw(*shell, *start, env={"HOME": str(home)})
        job.until(r"done 8 nodes 2\n")
        yield Running(job, home, (job.process.pid, *descendants(job.process.pid)))


@pytest.fixture(scope="module")
def running(account: Account) -> Iterator[Running]:
    with open_directory() as directory, started(directory) as made:
        yield made


def argv_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def program(pid: int) -> str:
    """What a process is: gcs_server, raylet, agent, dashboard, worker, driver, or a part of MPI."""
    words = argv_of(pid)
    if any(word.endswith("dashboard/dashboard.py") for word in words):
        return "dashboard"
    if any(word.endswith("deferred_agent.py") for word in words):
        return "agent"
    if words[0].startswith("ray::"):
        return "agent" if "Agent" in words[0] else "worker"
    if words[-1] == WORK:
        return "MPI" if "rayhpc.start" in words else "driver"
    return Path(words[0]).name


def sockets(pids: Sequence[int]) -> dict[str, int]:
    """Inode and pid of every socket of these processes."""
    found = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):  # of what ends meanwhile
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith("socket:["):
                    found.setdefault(target[8:-1], pid)
    return found


def heard(run: Running) -> dict[tuple[str, int], int]:
    """Address and port of every listening socket of a run, with the process behind it."""
    inodes = sockets(run.pids)
    found = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                host = "127.0.0.1" if address == "0100007F" else run.address
                found[host, int(port, 16)] = inodes[fields[9]]
    return found


def listening(run: Running) -> dict[tuple[str, int], str]:
    """The same, with the program behind it."""
    return {place: program(pid) for place, pid in heard(run).items()}


def methods(mpi: Mpi) -> list[str]:
    """Every gRPC method whose name is in Ray's programs."""
    where = subprocess.run(
        [mpi.python, "-c", "import ray; print(ray.__path__[0])"], capture_output=True, text=True, check=True
    )
    base = Path(where.stdout.strip())
    programs = [base / "core/src/ray/gcs/gcs_server", base / "core/src/ray/raylet/raylet", base / "_raylet.so"]
    name = re.compile(rb"/(?:ray\.rpc|grpc\.health)[\w.]+/\w+(?=\0)")
    return sorted({found.decode() for path in programs for found in name.findall(path.read_bytes())} - STREAMS)


def named(ports: dict[tuple[str, int], str]) -> dict[str, str]:
    return {f"{address}:{port}": owner for (address, port), owner in ports.items()}


GRPC = {"gcs_server", "raylet", "worker", "driver"}


def granted(answers: dict[str, dict[str, str]], owners: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """(program, port, method, answer) of the calls that were not refused, and of servers that did not speak at all."""
    return [
        (owners[port], port, method, answer)
        for port, said in answers.items()
        for method, answer in said.items()
        if answer not in (UNAUTHENTICATED, UNIMPLEMENTED) and method not in OPEN
        if answer.isdigit() or owners[port] in GRPC
    ]


@pytest.mark.quick
@pytest.mark.parametrize("token", ["", "0" * 64], ids=["no token", "another token"])
def test_every_port_refuses_every_call(running: Running, account: Account, token: str) -> None:
    """Each listening port of the run, with each method that Ray has; then HTTP."""
    ports, names = listening(running), methods(installed("mpich"))
    assert set(ports.values()) >= GRPC | {"agent"}, ports
    assert len(names) > 100
    order = {"ports": list(ports), "methods": names, "pages": PAGES, "token": token}
    found, owners = account.tries(order), named(ports)
    assert not granted(found["calls"], owners)
    refusing = {owners[port] for port, said in found["calls"].items() if UNAUTHENTICATED in said.values()}
    assert refusing == GRPC
    served = {(owners[port], page): code for port, said in found["pages"].items() for page, code in said.items()}
    assert {code for (owner, _), code in served.items() if owner == "agent"} == {"401"}, served
    assert not [entry for entry, code in served.items() if code.startswith(("2", "3"))], served
    count = sum(len(said) for said in found["calls"].values())
    what = f"another account on the host, {'a wrong' if token else 'no'} token: every gRPC method on every port; HTTP"
    met(Cell(STRANGERS, what, f"{len(ports)} ports, {count} calls: each is refused; gRPC health answers"))


def test_the_same_calls_succeed_with_the_token(running: Running, account: Account) -> None:
    """Else the test above would show nothing. Told to the GCS alone: agents write what they cannot read to a log."""
    address, port = running.gcs.rsplit(":", 1)
    found = account.tries({"ports": [(address, int(port))], "methods": [NODES_OF], "token": running.token})
    assert found["calls"][running.gcs][NODES_OF] == "0"


CLIENTS = {
    "GcsClient": "import ray._raylet as r; print(r.GcsClient(address={!r}).get_all_node_info(timeout=5))",
    "ray.init": "import ray; ray.init(address={!r}); print(ray.nodes())",
}
KEYS = {
    "no token": {},
    "authentication off": {"RAY_AUTH_MODE": "disabled"},
    "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("client", CLIENTS)
def test_rays_own_clients_are_refused(running: Running, account: Account, client: str, key: str) -> None:
    done = account.runs(CLIENTS[client].format(running.gcs), **KEYS[key])
    assert done.returncode != 0, done.stdout
    assert re.search("(?i)authenticat|token", done.stderr), done.stderr[-2000:]
    met(Cell(STRANGERS, f"another account on the host: {client} with {key}", "refused: Ray asks for the token"))


def everything(run: Running) -> list[str]:
    """Every file and directory of a run, and of the registry that it has entered."""
    tops = [*run.private, run.job.run, run.job.run.parent, run.job.directory / "state"]
    return [str(path) for top in tops if top.exists() for path in (top, *top.rglob("*"))]


def entry_of(run: Running) -> str:
    """The directory of a run in the registry."""
    return registry_in(run.job.directory)["RAYHPC_STATE_DIR"] + f"/clusters/{run.job.run.name}"


@pytest.mark.quick
def test_no_file_is_open_under_umask_000(running: Running, account: Account) -> None:
    paths = everything(running)
    assert {Path(path).name for path in paths} >= {"token", "r", "cluster.json", "rank-0.log", "raylet.out"}
    control = running.job.directory / "output"
    found = account.tries({"paths": [*paths, str(control)]})["opened"]
    assert found == {str(control): ["read"]} or found == {str(control): ["read", "write"]}, found
    assert {path.stat().st_mode & 0o777 for path in (*running.private, running.job.run)} == {0o700}
    assert [(path / "token").stat().st_mode & 0o777 for path in running.private] == [0o600, 0o600]
    met(Cell(STRANGERS, f"another account on the host: {len(paths)} files of a run under umask 000", "none opens"))


@pytest.mark.quick
def test_the_token_is_nowhere_but_in_its_files(running: Running) -> None:
    token = running.token.encode()
    assert len(token) == 64
    spoken = [
        (entry.name, name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        for name in ("environ", "cmdline")
        if token in read(entry / name)
    ]
    assert not spoken
    files = [path for path in everything(running) if token in read(Path(path))]
    assert files == [f"{place}/token" for place in (*running.private, entry_of(running))]
    assert token not in running.job.output().encode()
    what = "the token in command lines, environments, logs, the record, the terminal"
    met(Cell(STRANGERS, what, f"only in {len(files)} files of mode 0600"))


def read(path: Path) -> bytes:
    """The content of a file; nothing of what has gone, or is no file."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


@pytest.mark.quick
def test_whoever_holds_the_token_writes_no_core_file(running: Running) -> None:
    """All of them: ranks, keepers, Ray's daemons, workers, the driver; MPI's own launcher holds none."""
    marked = {pid for pid, _ in ours([running.job.run.name])}
    ranks = {pid for pid in running.pids if "rayhpc.start" in argv_of(pid) and argv_of(pid)[0] != "sh"}
    limits = {pid: core_limit(pid) for pid in (marked | ranks) - {running.job.process.pid}}
    assert {program(pid) for pid in limits} >= GRPC | {"agent"}
    assert not [argv_of(pid)[:3] for pid, limit in limits.items() if limit != "0" and "mpirun" not in argv_of(pid)[0]]
    met(Cell(STRANGERS, "core files of ranks, daemons, workers and driver", f"RLIMIT_CORE 0 in {len(limits)} of them"))


def core_limit(pid: int) -> str:
    """The soft limit of /proc/PID/limits."""
    text = Path(f"/proc/{pid}/limits").read_text()
    return re.search(r"^Max core file size\s+(\S+)", text, re.MULTILINE).group(1)  # type: ignore[union-attr]


def test_no_socket_without_a_directory(running: Running) -> None:
    """An abstract AF_UNIX socket that listens would be open to every account of the host."""
    inodes = sockets(running.pids)
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    heard = [row[7] for row in rows if row[6] in inodes and row[3] == "00010000" and len(row) > 7]
    assert heard
    assert not [name for name in heard if name.startswith("@")]


# ---------------------------------------------------------------------------- its dashboard, seen from another account

JOBS = """
from ray.job_submission import JobSubmissionClient
print(JobSubmissionClient({!r}).submit_job(entrypoint="id"))
"""
# The protocol of ray:// lies in Python files and not in Ray's programs.
CLIENT = "/ray.rpc.RayletDriver/Init"
# What Ray's dashboard serves to everybody: the page that asks for the token, and whether it need ask.
WELCOME = {"/", "/api/authentication_mode"}
DASHBOARD_PAGES = [*PAGES, *WELCOME, "/api/v0/nodes", "/api/actors", "/logs", "/api/cluster_status"]


@pytest.fixture(scope="module")
def watched(account: Account) -> Iterator[Running]:
    with open_directory() as directory, started(directory, "--dashboard", mpi="dashboard") as made:
        # The cluster is up before its dashboard, whose callers wait for the answer; then all its ports are open.
        with urllib.request.urlopen(f"http://{made.dashboard}/", timeout=60) as page:
            assert page.status == 200
        yield made


@pytest.fixture(scope="module")
def answers(watched: Running, account: Account) -> tuple[dict[str, str], dict[str, Any]]:
    """Who listens on which port of the run, and what each of them answers to a stranger."""
    ports = listening(watched)
    order = {"ports": list(ports), "methods": [*methods(installed("dashboard")), CLIENT], "pages": DASHBOARD_PAGES}
    return named(ports), account.tries(order)


Answers = tuple[dict[str, str], dict[str, Any]]


def test_with_a_dashboard_every_call_is_refused(answers: Answers) -> None:
    """Agents of ray[default] speak gRPC, too; a server for the Ray client (ray://) is nowhere."""
    owners, found = answers
    assert not granted(found["calls"], owners)
    served = {owners[port] for port, said in found["calls"].items() if UNAUTHENTICATED in said.values()}
    assert served == GRPC | {"agent"}
    assert {said[CLIENT] for said in found["calls"].values() if CLIENT in said} <= {UNIMPLEMENTED, UNAUTHENTICATED}
    count = sum(len(said) for said in found["calls"].values())
    what = "another account on the host, with --dashboard, no token: every gRPC method on every port; the Ray client"
    met(Cell(STRANGERS, what, f"{len(owners)} ports, {count} calls: each is refused; gRPC health answers"))


def test_a_dashboard_shows_strangers_its_first_page_alone(watched: Running, answers: Answers) -> None:
    owners, found = answers
    (place,) = [port for port in found["pages"] if port == watched.dashboard]
    assert owners[place] == "dashboard"
    pages = found["pages"][place]
    assert {page for page, code in pages.items() if code == "200"} == WELCOME
    assert {code for page, code in pages.items() if page not in WELCOME} == {"401"}
    met(Cell(STRANGERS, "another account: the dashboard by HTTP", "401, but for the page that asks for the token"))


def test_metrics_are_open_and_hold_no_token(watched: Running, answers: Answers) -> None:
    """Prometheus ports have no authentication in Ray: docs/security.md says so."""
    _, found = answers
    rest = {port: said for port, said in found["pages"].items() if port != watched.dashboard}
    metrics = {port for port, said in rest.items() if "200" in said.values()}
    assert len(metrics) == 3, rest  # the dashboard's, and one of each node's agent
    for port in metrics:
        with urllib.request.urlopen(f"http://{port}/metrics", timeout=10) as answer:
            text = answer.read()
        assert b"# TYPE" in text
        assert watched.token.encode() not in text
    others = {code for port, said in rest.items() if port not in metrics for code in said.values()}
    assert not [code for code in others if code.startswith(("2", "3"))], others
    what = "another account, with --dashboard: Ray's Prometheus ports"
    met(Cell(STRANGERS, what, "open by Ray's design: figures, names of hosts and tasks; the token is not among them"))


@pytest.mark.parametrize("key", KEYS)
def test_the_job_api_refuses_strangers(watched: Running, account: Account, key: str) -> None:
    done = account.runs(JOBS.format(f"http://{watched.dashboard}"), mpi="dashboard", **KEYS[key])
    assert done.returncode != 0, done.stdout
    assert re.search("(?i)authenticat|token", done.stderr), done.stderr[-2000:]
    met(Cell(STRANGERS, f"another account on the host: the job API with {key}", "refused: Ray asks for the token"))


# ------------------------------------------------------------------------------------ what stays, and what was planted


@pytest.mark.quick
def test_afterwards(account: Account) -> None:
    """The record that stays; ~/.ray/auth_token of a local ray.init() neither breaks a run nor is touched."""
    with open_directory() as directory, started(directory) as run:
        token, kept = run.token.encode(), run.home / ".ray" / "auth_token"
        before = (kept.stat().st_mtime_ns, kept.stat().st_ino)
        (run.job.directory / "stop").touch()
        assert run.job.wait(30) == 7, run.job.output()
        assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
        assert [path.name for path in run.home.rglob("*")] == [".ray", "auth_token"]
        assert kept.read_text() == LOCAL_TOKEN
        paths = everything(run)
        assert "ray-logs.tar.gz" in {Path(path).name for path in paths}
        assert not account.tries({"paths": paths})["opened"]
        with tarfile.open(run.job.run / "ray-logs.tar.gz") as tar:
            logs = [file.read() for entry in tar if (file := tar.extractfile(entry))]
        assert len(logs) > 10
        assert not [log for log in [*logs, *(read(Path(path)) for path in paths)] if token in log]
    met(Cell(STRANGERS, "the record and the archive of logs after a run under umask 000", "closed, without the token"))
    met(Cell(STRANGERS, "the user has ~/.ray/auth_token of a local ray.init()", "the run works, the file stays as is"))


def test_a_crash_leaves_no_core_file() -> None:
    """With core files allowed and a kernel that would write them into the working directory."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    crash = "import os, ray; ray.init(log_to_driver=False); os.kill(os.getpid(), 11)"
    with open_directory() as directory, jobs_in(installed("mpich"), directory) as jobs:
        start = [jobs.mpi.python, "-m", "rayhpc.start", "--", "python", "-c", crash]
        job = jobs.start_raw("sh", "-c", 'ulimit -S -c unlimited; exec "$@"', "sh", *start)
        assert job.wait(90) == 139, job.output()
        assert not list(job.directory.glob("*core*"))
    met(Cell(STRANGERS, f"a driver that crashes (core_pattern {pattern})", "139, and no core file"))


@pytest.mark.quick
def test_a_directory_of_somebody_else_is_refused(account: Account, tmp_path: Path) -> None:
    """Another account guesses the name of the private directory and makes it first."""
    program = tmp_path / "planted.py"
    program.write_text(
        "import os, sys\n"
        "from rayhpc import paths\n"
        "honest, made = paths.private_dir, []\n"
        "def planted(base, run_id, rank):\n"
        "    name = honest(base, run_id, rank)\n"
        "    if not made:\n"
        f"        os.mkdir(name, 0o777); os.chown(name, {account.uid}, {account.gid}); made.append(name)\n"
        "    return name\n"
        "paths.private_dir = planted\n"
        "from rayhpc.start import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit(f'written into {made}' if os.listdir(made[0]) else os.rmdir(made[0]) or code)\n"
    )
    with open_directory() as directory, jobs_in(installed("mpich"), directory) as jobs:
        job = jobs.start_raw(jobs.mpi.python, str(program), "/bin/true")
        assert job.wait() == 78, job.output()
        assert "cannot be made: File exists" in job.output()
    what = "another account makes the private directory first"
    met(Cell(STRANGERS, what, "78 CONFIGURATION: 'cannot be made: File exists', nothing is written into it"))


@pytest.mark.quick
@pytest.mark.parametrize("fault", ["somebody else's", "writable for all"])
def test_a_temporary_directory_that_others_rule_is_refused(account: Account, fault: str) -> None:
    """Who may rename in it could put a directory of his own in the place of ours."""
    with open_directory() as directory, jobs_in(installed("mpich"), directory) as jobs:
        base = directory / "b"
        base.mkdir()
        base.chmod(0o777)
        if fault == "somebody else's":
            base.chmod(0o1777)
            os.chown(base, account.uid, account.gid)
        short = Path(f"/var/tmp/{directory.name[-4:]}")
        short.symlink_to(base)
        try:
            job = jobs.start_raw(jobs.mpi.python, "-m", "rayhpc.start", "--temp-dir", str(short), "/bin/true")
            code, output = job.wait(), job.output()
        finally:
            short.unlink()
    assert code == 78, output
    theirs, writable = "belongs to another account", "is writable for others without the sticky bit"
    said = theirs if fault == "somebody else's" else writable
    assert said in output
    met(Cell(STRANGERS, f"--temp-dir is {fault}", f"78 CONFIGURATION: '… {said}'"))


# ----------------------------------------------------------------------------------------------- from another host


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Two hosts with a network between them."""
    if reason := why_unavailable():
        skip(reason)
    pythons = [Path(sys.executable), Path(installed("mpich").python)]
    homes = [start.parent.parent for python in pythons for start in (python, python.resolve())]
    shared = (tmp_path_factory.getbasetemp(), Path(__file__).parents[2], *homes)
    with virtual_cluster(2, Path(f"/var/lib/virtual-hosts-strangers-{os.getpid()}"), shared) as cluster:
        yield cluster


def ports_of(cluster: SlurmCluster, host: str) -> set[int]:
    """Every listening port of a host that is not bound to its loopback alone."""
    rows = [line.split() for line in cluster.sh(host, "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()]
    heard = [row[1].split(":") for row in rows if len(row) > 9 and row[3] == "0A"]
    return {int(port, 16) for address, port in heard if address not in ("0100007F", "0" * 24 + "01000000")}


def test_from_another_host(hosts: SlurmCluster, tmp_path: Path) -> None:
    mpich, before = installed("mpich"), ports_of(hosts, "node1")
    log = tmp_path / "log"
    with log.open("w") as stdout:
        held = hosts.start("node1", mpich.python, "-m", "rayhpc.start", "--hold", cwd=tmp_path, stdout=stdout)
    try:
        poll(lambda: re.search("RAY_ADDRESS=(.*):", log.read_text()), 90, log.read_text)
        address = re.search("RAY_ADDRESS=(.*):", log.read_text()).group(1)  # type: ignore[union-attr]
        ports = sorted(ports_of(hosts, "node1") - before)
        order = {"ports": [[address, port] for port in ports], "methods": methods(mpich), "pages": PAGES}
        (tmp_path / "order.json").write_text(json.dumps(order))
        tried = f"exec {sys.executable} -I {PROGRAM} < {tmp_path}/order.json"
        done = hosts.sh("node2", "sh", "-c", tried, cwd=Path("/"), timeout=200)
    finally:
        held.terminate()
        held.wait(30)
    calls, pages = json.loads(done.stdout)["calls"], json.loads(done.stdout)["pages"]
    answers = [(port, m, answer) for port, said in calls.items() for m, answer in said.items() if m not in OPEN]
    assert len([port for port, said in calls.items() if UNAUTHENTICATED in said.values()]) >= 2, calls
    assert not [entry for entry in answers if entry[2] not in (UNAUTHENTICATED, UNIMPLEMENTED)], answers
    assert not [said for said in pages.values() if any(code.startswith("2") for code in said.values())], pages
    hosts.assert_nothing_left()
    what = f"from another host, without the token: {len(ports)} ports, {len(answers)} calls, HTTP"
    met(Cell(STRANGERS, what, "each is refused; gRPC health answers"))


# --------------------------------------------------------------------------------------------------------- --tls


def handshake(address: tuple[str, int], private: Path, own: bool) -> bytes:
    """The first bytes of a gRPC server over TLS, shown our certificate or none; nothing if it refuses."""
    context = ssl.create_default_context(cafile=str(private / "tls.crt"))
    context.set_alpn_protocols(["h2"])
    if own:
        context.load_cert_chain(private / "tls.crt", private / "tls.key")
    with socket.create_connection(address, 5) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=address[0]) as wrap:
                wrap.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                return wrap.recv(9)
        except (ssl.SSLError, ConnectionError):  # under TLS 1.3 a client learns of it with its first word
            return b""


def test_tls(account: Account) -> None:
    """The driver works; without the certificate nobody gets a word, not even with the token."""
    with open_directory() as directory, started(directory, "--tls") as run:
        ports = {place: owner for place, owner in listening(run).items() if owner in GRPC}
        assert set(ports.values()) == GRPC
        for place in ports:
            assert handshake(place, run.private[0], own=True)[3] == 4, "no SETTINGS frame"
            assert handshake(place, run.private[0], own=False) == b""
        found = account.tries({"ports": list(ports), "methods": [NODES_OF], "token": run.token})
        assert not [said for said in found["calls"].values() if any(answer.isdigit() for answer in said.values())]
        code = CLIENTS["GcsClient"].format(run.gcs)
        assert account.runs(code, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=run.token).returncode != 0
        modes = {path.name: path.stat().st_mode & 0o777 for path in run.private[0].glob("tls.*")}
        assert modes == {"tls.crt": 0o600, "tls.key": 0o600}
        key = (run.private[0] / "tls.key").read_bytes().splitlines()[1]
        files = [path for path in everything(run) if key in read(Path(path))]
        assert files == [f"{place}/tls.key" for place in (*run.private, entry_of(run))]
        assert not account.tries({"paths": everything(run)})["opened"]
        (run.job.directory / "stop").touch()
        assert run.job.wait(30) == 7, run.job.output()
    what = "--tls: a client with the token and without the run's certificate"
    met(Cell(STRANGERS, what, f"no word on any of {len(ports)} gRPC ports; the driver ends with its own code"))


@pytest.mark.quick
def test_tls_without_openssl(jobs: Jobs) -> None:
    began = time.monotonic()
    argv = [jobs.mpi.python, "-m", "rayhpc.start", "--tls", "--", sys.executable, "-c", "pass"]
    job = jobs.start_raw(*argv, env={"PATH": str(Path(jobs.mpi.python).parent)})
    assert job.wait(30) == 78, job.output()
    assert "--tls: the openssl command cannot be run" in job.output()
    assert not (job.directory / "rayhpc-runs").exists()
    outcome = "78 CONFIGURATION: 'the openssl command cannot be run'"
    met(Cell(STRANGERS, "--tls on a host without openssl", outcome, time.monotonic() - began, 15))
