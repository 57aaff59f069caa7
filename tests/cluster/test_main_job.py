"""The main job with real Ray under real mpiexec on this host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from rayhpc.records import timeline
from rayhpc.records.timeline import AGREEMENT, DRIVER, GIVE_BACK, IMPORTS, RAY_START, WAITS_FOR_HEAD, WAITS_FOR_NODES
from tests.launch import Job, Jobs, keeper_name, ours, until

pytestmark = pytest.mark.cluster

COUNT = "import ray,sys; ray.init(log_to_driver=False); print('nodes', len(ray.nodes())); sys.exit(7)"
NOTE = """
import signal, sys, time
def note(signum, frame):
    print("driver got", signum, flush=True)
    if signum in (signal.SIGTERM, signal.SIGINT):
        sys.exit(9)
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(signum, note)
print("driver up", flush=True)
while True:
    time.sleep(0.05)
"""
SECRET = "a-secret-that-the-shell-has-exported"
WAIT = "import ray; ray.init(log_to_driver=False)" + NOTE


@pytest.mark.oldest
@pytest.mark.parametrize("ranks", [1, 4])
def test_nodes_and_exit_code(jobs_of: Jobs, ranks: int) -> None:
    job = jobs_of.start("--", "python", "-c", COUNT, ranks=ranks)
    assert job.wait() == 7, job.output()
    assert f"nodes {ranks}\n" in job.output()
    assert f"{ranks}/{ranks} Ray nodes, " in job.output()
    outcome = job.record("outcome.json")
    assert outcome["code"] == 7
    assert outcome["fault"] is None
    assert (job.run.parent / "latest").resolve() == job.run
    assert stages(job, 0) == [IMPORTS, AGREEMENT, RAY_START, DRIVER, GIVE_BACK]
    assert all(stages(job, rank)[:4] == [IMPORTS, AGREEMENT, WAITS_FOR_HEAD, RAY_START] for rank in range(1, ranks))


def stages(job: Job, rank: int) -> list[str]:
    """What a rank did, but for the waits for other nodes, which may be too short to be seen."""
    own = [span.stage for span in timeline.spans(job.events()) if span.rank == rank]
    return [stage for stage in own if stage != WAITS_FOR_NODES]


def test_without_mpirun(jobs: Jobs) -> None:
    job = jobs.start("--", "python", "-c", COUNT, ranks=0)
    assert job.wait() == 7, job.output()
    assert "nodes 1\n" in job.output()


def test_two_side_by_side(jobs_of: Jobs) -> None:
    pair = [jobs_of.start("--", "python", "-c", COUNT, ranks=2, name=name) for name in ("left", "right")]
    assert [job.wait() for job in pair] == [7, 7], [job.output() for job in pair]
    assert all("nodes 2\n" in job.output() for job in pair)


def test_what_the_driver_gets(jobs: Jobs) -> None:
    """Arguments verbatim, {address} replaced, RAY_ADDRESS, closed stdin, no variable of MPI; the interface of the run,
    on all nodes; no token and no secret of the shell in what is kept, though an argument has it, and Ray writes it into
    its logs.
    """
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "hostile.py").write_text(
        "import json, os, sys, ray\n"
        "ray.init(log_to_driver=False, runtime_env={'env_vars': {'WANDB_API_KEY': os.environ['WANDB_API_KEY']}})\n"
        "names = ('GLOO_SOCKET_IFNAME', 'NCCL_SOCKET_IFNAME')\n"
        "environ = ray.remote(lambda: {name: os.environ.get(name) for name in names})\n"
        "nodes = [environ.options(label_selector={'rayhpc-rank': rank}).remote() for rank in '01']\n"
        "json.dump({'argv': sys.argv[1:], 'environ': dict(os.environ), 'stdin': sys.stdin.read(),\n"
        "           'nodes': ray.get(nodes),\n"
        "           'token': open(os.environ['RAY_AUTH_TOKEN_PATH']).read()}, open('got.json', 'w'))\n"
    )
    hostile = ["a'; echo foo", "two words", "line\nbreak", "$HOME", "größe", "--timeout", "-m", "{address}", ""]
    hostile.append(f"--key={SECRET}")
    inherited = {"RAY_ADDRESS": "10.9.9.9:1", "RAY_TMPDIR": "/nowhere", "RAY_AUTH_MODE": "disabled"}
    inherited |= {"WANDB_API_KEY": SECRET, "NCCL_SOCKET_IFNAME": "the user's"}
    job = jobs.start("--num-cpus", "1", "hostile.py", *hostile, ranks=2, env=inherited)
    assert job.wait() == 0, job.output()
    got = json.loads((directory / "got.json").read_text())
    address = got["environ"]["RAY_ADDRESS"]
    assert got["argv"] == [word.replace("{address}", address) for word in hostile]
    assert got["stdin"] == ""
    addressed = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout.splitlines()
    (chosen,) = [line.split()[1] for line in addressed if f" {address.rpartition(':')[0]}/" in line]
    interfaces = {"GLOO_SOCKET_IFNAME": chosen, "NCCL_SOCKET_IFNAME": "the user's"}
    assert got["nodes"] == [interfaces] * 2
    assert got["environ"].items() >= interfaces.items()
    assert not [name for name in got["environ"] if name.startswith(("PMI", "OMPI_COMM", "HYDI", "MPI_LOCAL"))]
    assert len(got["token"]) == 64
    assert not [value for value in got["environ"].values() if got["token"] in value]
    for path in [directory / "output", *job.run.rglob("*")]:
        if path.is_file():
            assert got["token"].encode() not in path.read_bytes(), path
            assert SECRET.encode() not in path.read_bytes(), path
            assert not path.stat().st_mode & 0o077 or path.name == "output", path
    with tarfile.open(job.run / "ray-logs.tar.gz") as tar:
        logs = {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}
    assert [name for name, log in logs.items() if b"'WANDB_API_KEY': '***'" in log or b'"WANDB_API_KEY": "***"' in log]
    assert not [name for name, log in logs.items() if SECRET.encode() in log or got["token"].encode() in log]


def test_module_driver_and_live_output(jobs: Jobs) -> None:
    directory = jobs.directory / "job"
    (directory / "pack").mkdir(parents=True)
    (directory / "pack" / "__init__.py").touch()
    (directory / "pack" / "train.py").write_text("import sys; print('module', sys.argv[1:], flush=True); input()")
    job = jobs.start("--num-cpus=1", "-m", "pack.train", "-x", ranks=1)
    assert job.wait() == 1  # input() meets the closed standard input
    assert "module ['-x']" in job.output()
    assert "EOFError" in job.output()


def test_prints_of_tasks_reach_the_driver_once(jobs: Jobs) -> None:
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "prints.py").write_text(
        "import pathlib, ray, time\n"
        "ray.init()\n"
        "@ray.remote(num_cpus=1, scheduling_strategy='SPREAD')\n"
        "def task(n):\n"
        "    print(f'<{n}>'); return n\n"
        "for lines in (range(4), range(4, 8)):\n"
        "    ray.get([task.remote(n) for n in lines])\n"
        "    while not pathlib.Path(f'seen{lines[-1]}').exists(): time.sleep(0.05)\n"
    )
    job = jobs.start("prints.py", ranks=2, env={"RAY_DEDUP_LOGS": "0"})
    for number in range(8):  # a second copy of the first lines would be there before the last ones are
        job.until(f"<{number}>")
        (directory / f"seen{number}").touch()
    assert job.wait() == 0, job.output()
    assert [job.output().count(f"<{n}>") for n in range(8)] == [1] * 8, job.output()


def test_signals_reach_the_driver_once(jobs_of: Jobs) -> None:
    """USR1 to the launcher, which passes it to every rank; then INT to one rank alone."""
    job = jobs_of.start("--", "python", "-c", WAIT, ranks=2)
    job.until("driver up")
    job.process.send_signal(signal.SIGUSR1)
    job.until(f"driver got {int(signal.SIGUSR1)}")
    os.kill(_rank(job, 1), signal.SIGINT)
    assert job.wait() == 9, job.output()
    assert job.output().count(f"driver got {int(signal.SIGUSR1)}") == 1
    assert job.output().count(f"driver got {int(signal.SIGINT)}") == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_the_launcher_is_ended(jobs_of: Jobs, signum: int) -> None:
    """After five seconds nothing is left: checked by the fixture."""
    job = jobs_of.start("--", "python", "-c", WAIT, ranks=3)
    job.until("driver up")
    job.process.send_signal(signum)
    assert job.wait(30) != 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(jobs_of: Jobs, rank: int) -> None:
    job = jobs_of.start("--", "python", "-c", WAIT, ranks=3)
    job.until("driver up")
    os.kill(_rank(job, rank), signal.SIGKILL)
    assert job.wait(30) != 0


def test_a_keeper_is_killed(jobs: Jobs) -> None:
    """The head's keeper: its `ray start` dies with it, the rest is found by its mark."""
    job = jobs.start("--", "python", "-c", WAIT, ranks=2)
    job.until("driver up")
    keeper = _keeper(job, 0)
    os.kill(keeper, signal.SIGKILL)
    assert job.wait(30) == 73, job.output()


def test_the_driver_is_killed(jobs_of: Jobs) -> None:
    job = jobs_of.start("--", "python", "-c", "import os; os.kill(os.getpid(), 9)", ranks=2)
    assert job.wait() == 137, job.output()
    assert "ended by SIGKILL" in job.output()


def test_grandchildren_go_too(jobs: Jobs) -> None:
    """A daemon of the driver and a setsid child of an actor."""
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "forks.py").write_text(
        "import os, ray, subprocess\n"
        "ray.init(log_to_driver=False)\n"
        "@ray.remote\n"
        "class A:\n"
        "    def go(self):\n"
        "        return subprocess.Popen(['setsid', 'sleep', '300']).pid\n"
        "a = A.remote()\n"
        "pids = [ray.get(a.go.remote()), subprocess.Popen(['setsid', 'sleep', '300']).pid]\n"
        "print('pids', *pids, flush=True)\n"
    )
    job = jobs.start("forks.py", ranks=2)
    assert job.wait() == 0, job.output()
    pids = [int(word) for word in job.until(r"pids (\d+ \d+)").group(1).split()]
    assert not [pid for pid in pids if Path(f"/proc/{pid}/environ").exists() and Path(f"/proc/{pid}/exe").exists()]


@pytest.mark.parametrize(("policy", "code"), [("continue", 9), ("abort", 74)])
def test_a_worker_is_lost(jobs: Jobs, policy: str, code: int) -> None:
    job = jobs.start(f"--on-node-loss={policy}", "--", "python", "-c", WAIT, ranks=3)
    job.until("driver up")
    os.kill(_daemon(job, 2, "raylet"), signal.SIGKILL)
    if policy == "continue":
        job.until(r"LOST rank 2 on .*the run goes on with 2 nodes", 15)
        os.kill(_rank(job, 0), signal.SIGTERM)
    assert job.wait(30) == code, job.output()
    assert policy == "continue" or "the Ray node" in job.output()


@pytest.mark.parametrize("daemon", ["gcs_server", "raylet"])
def test_the_head_is_lost(jobs: Jobs, daemon: str) -> None:
    job = jobs.start("--", "python", "-c", WAIT, ranks=2)
    job.until("driver up")
    os.kill(_daemon(job, 0, daemon), signal.SIGKILL)
    assert job.wait(30) == 73, job.output()
    assert "the head is lost" in job.output()


def test_a_node_that_does_not_start(jobs_of: Jobs) -> None:
    job = jobs_of.start_split({"RAYHPC_RAY_ARG": "--no-such-flag"}, "/bin/true", others=2)
    assert job.wait(60) == 71, job.output()
    assert "No such option" in job.output()
    assert "rank 2 on " in job.output()


def test_a_ray_that_cannot_be_imported(jobs: Jobs, tmp_path: Path) -> None:
    """It fails before the ranks have agreed on a log, again once they have, and that is told with its words."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('Ray is broken here')\n")
    job = jobs.start("/bin/true", ranks=2, env={"PYTHONPATH": str(tmp_path)})
    assert job.wait(60) == 78, job.output()
    assert "Ray cannot be imported: ImportError: Ray is broken here" in job.output()
    assert "pip install 'ray[rllib]'" in job.output()
    assert "ImportError: Ray is broken here" in (job.run / "rank-0.log").read_text()


def test_tls_that_the_first_rank_alone_was_told_of(jobs: Jobs) -> None:
    """The others, who have begun to import Ray without a certificate, begin again."""
    program = [jobs.mpi.python, "-m", "rayhpc.start", "--", "python", "-c", COUNT]
    job = jobs.start_raw(*jobs.mpi.mpirun, "-np", "1", "env", "RAYHPC_TLS=1", *program, ":", "-np", "1", *program)
    assert job.wait() == 7, job.output()
    assert "nodes 2\n" in job.output()


def test_min_nodes(jobs: Jobs) -> None:
    """With a node that cannot start the run goes on with a warning, and does not wait for it until the timeout."""
    words = ["--min-nodes=2", "--timeout=80", "--", "python", "-c", COUNT]
    job = jobs.start_split({"RAYHPC_RAY_ARG": "--no-such-flag"}, *words, others=2)
    assert job.wait(90) == 7, job.output()
    assert "going on with 2 of 3 Ray nodes; missing: " in job.output()


def test_not_ready_in_time(jobs_of: Jobs) -> None:
    job = jobs_of.start("--timeout=0.01", "/bin/true", ranks=2)
    assert job.wait(60) == 72, job.output()
    assert "the head not alive after 0 s: rank 0 on " in job.output()


def test_a_port_that_was_taken_meanwhile(jobs: Jobs, tmp_path: Path) -> None:
    """Between the bind test and the GCS somebody else binds the port: the head is started on another one."""
    program = tmp_path / "race.py"
    program.write_text(
        "import socket, sys\n"
        "from rayhpc.host import network as net\n"
        "thief = socket.create_server(('', 0)); stolen = thief.getsockname()[1]\n"
        "honest = net.free_port; picked = []\n"
        "def racing(host, wanted=0, taken=frozenset()):\n"
        "    picked.append(stolen if not picked else honest(host, wanted, taken)); return picked[-1]\n"
        "net.free_port = racing\n"
        "from rayhpc.start import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    job = jobs.start_raw(jobs.mpi.python, str(program), "--", "python", "-c", COUNT)
    assert job.wait(90) == 7, job.output()
    assert "port taken" in [event["stage"] for event in job.events()]


LATE = """
import os, ray

@ray.remote(runtime_env={"env_vars": {"COLOUR": "green"}})
def colour():
    print("said in a task")
    return os.environ["COLOUR"]

ray.init()
print(ray.get([colour.options(label_selector={"rayhpc-rank": str(n)}).remote() for n in range(2)]), flush=True)
"""


def test_agents_that_are_called_first_by_the_driver(jobs: Jobs) -> None:
    """No node waited for them: a runtime environment is made, and what tasks print is shown."""
    job = jobs.start("--", "python", "-c", LATE, ranks=2)
    assert job.wait() == 0, job.output()
    assert "['green', 'green']" in job.output()
    assert "said in a task" in job.output()


def test_an_agent_that_hangs(jobs: Jobs, tmp_path: Path) -> None:
    """As it may on a slow file system, for minutes: a driver that does not need it is not kept."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, signal, sys\n"
        "if any(word.endswith('deferred_agent.py') for word in sys.orig_argv):\n"
        f"    pathlib.Path({str(tmp_path / 'hung')!r}).touch()\n"
        "    signal.pause()\n"
    )
    job = jobs.start("--", "python", "-c", COUNT, ranks=1, env={"PYTHONPATH": str(tmp_path)})
    assert job.wait() == 7, job.output()
    assert (tmp_path / "hung").exists()
    assert "WARNING" not in job.output()


def test_a_host_too_slow_for_ray(jobs: Jobs, tmp_path: Path) -> None:
    """A release of Ray that nobody checked waits for its agents, 30 s: one that hangs once costs no job."""
    hung = tmp_path / "hung"
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, signal, sys\n"
        "import rayhpc.inside_ray.names\n"
        "rayhpc.inside_ray.names.LAST = (2, 53)\n"
        f"hung = pathlib.Path({str(hung)!r})\n"
        "if 'dashboard/agent.py' in ' '.join(sys.orig_argv) and not hung.exists():\n"
        "    hung.touch()\n"
        "    signal.pause()\n"
    )
    job = jobs.start("--", "python", "-c", COUNT, ranks=1, env={"PYTHONPATH": str(tmp_path)})
    assert job.wait(120) == 7, job.output()
    assert hung.exists()
    assert "WARNING: rank 0 on " in job.output()
    assert "too slow for Ray's agents: its Ray node is started again" in job.output()


def test_the_end_of_the_job(jobs: Jobs) -> None:
    """Grace before the walltime: USR1 once; a driver that ignores it is ended in time."""
    began = time.monotonic()
    job = jobs.start("--walltime=40", "--grace=15", "--", "python", "-c", NOTE, ranks=1)
    job.until("driver up")
    assert job.wait(60) == 9, job.output()
    assert job.output().count(f"driver got {int(signal.SIGUSR1)}") == 1
    assert time.monotonic() - began < 42


def test_hold(jobs: Jobs) -> None:
    job = jobs.start("--hold", ranks=2)
    command = job.until(r"env (RAY_ADDRESS=\S+ RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=\S+) python").group(1)
    env = dict(word.split("=", 1) for word in command.split())
    guest = jobs.start_raw(jobs.mpi.python, "-c", COUNT, env=env, name="guest")
    assert guest.wait() == 7, guest.output()
    os.kill(_rank(job, 1), signal.SIGTERM)
    assert job.wait(20) == 0, job.output()


def test_one_per_host(jobs_of: Jobs) -> None:
    job = jobs_of.start("--one-per-host", "--", "python", "-c", COUNT, ranks=3)
    assert job.wait() == 7, job.output()
    assert "nodes 1\n" in job.output()


def test_resources(jobs: Jobs) -> None:
    code = (
        "import ray; ray.init(log_to_driver=False); n = ray.nodes(); "
        "print([(*(x['Resources'][k] for k in ('CPU', 'fast', 'GPU')), x['Labels']['zone']) for x in n],"
        "[int(x['Resources']['memory']) for x in n], [int(x['Resources']['object_store_memory']) for x in n])"
    )
    words = ["--num-cpus=3", "--num-gpus=1", "--memory=1G", "--object-store-memory=100M", "--labels=zone=a"]
    job = jobs.start(*words, '--resources={"fast": 2}', "--", "python", "-c", code, ranks=2)
    assert job.wait() == 0, job.output()
    gpu = "[(3.0, 2.0, 1.0, 'a'), (3.0, 2.0, 1.0, 'a')]"
    assert f"{gpu} {[2**30] * 2} {[100 * 2**20] * 2}" in job.output(), job.output()
    assert "2/2 Ray nodes, 6 CPUs, 2 GPUs" in job.output()


def test_logs_of_every_node_in_one_archive(jobs: Jobs) -> None:
    job = jobs.start("/bin/true", ranks=2)
    assert job.wait() == 0, job.output()
    with tarfile.open(job.run / "ray-logs.tar.gz") as tar:
        names = tar.getnames()
    assert [any(f"rank-{rank}-" in name and name.endswith("raylet.out") for name in names) for rank in (0, 1)] == [
        True,
        True,
    ]


def test_a_planted_directory_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    """Somebody guesses the name of the private directory: nothing is started in it."""
    program = tmp_path / "planted.py"
    program.write_text(
        "import os, sys\n"
        "from rayhpc import paths\n"
        "honest = paths.private_dir\n"
        "def planted(base, run_id, rank):\n"
        "    name = honest(base, run_id, rank); os.path.islink(name) or os.symlink('/etc', name); return name\n"
        "paths.private_dir = planted\n"
        "from rayhpc.start import main\n"
        "code = main(sys.argv[1:])\n"
        "[os.unlink(f'/tmp/{n}') for n in os.listdir('/tmp') if n.startswith('rh-') and os.path.islink(f'/tmp/{n}')]\n"
        "sys.exit(code)\n"
    )
    job = jobs.start_raw(jobs.mpi.python, str(program), "/bin/true")
    assert job.wait() == 78, job.output()
    assert "cannot be made: File exists" in job.output()


def _keeper(job: Job, rank: int) -> int:
    """The pid of the keeper of a rank's node."""
    name = keeper_name(job.run.name, rank)
    (found,) = [pid for pid, command in ours([job.run.name]) if command.startswith(f"{name} ")]
    return found


def _rank(job: Job, rank: int) -> int:
    """The pid of a rank's Python, the parent of its keeper."""
    stat = Path(f"/proc/{_keeper(job, rank)}/stat").read_text().rpartition(")")[2].split()
    return int(stat[1])


def _daemon(job: Job, rank: int, name: str) -> int:
    """The pid of a rank's gcs_server or raylet."""
    found: list[int] = []

    def look() -> bool:
        for pid, command in ours([job.run.name]):
            program = command.split(" ")[1]
            marked = (
                f"RAYHPC_NODE={job.run.name}/{rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
            )
            if program.endswith(f"/{name}") and marked:
                found.append(pid)
        return bool(found)

    assert until(look, 10), f"no {name} of rank {rank}"
    return found[0]
