"""Stand-ins for PBS's qsub, qstat, qdel, qsig and pbs_tmrsh: they run a job on this host under PBS's rules.

The rules are those that a real OpenPBS 23.06 showed. A job runs the spooled copy of its script in a login shell in
$HOME, with a login's environment and what `-v` passes; its hosts file and TMPDIR exist while it runs. qdel and the
walltime send SIGTERM to the job's session but the top shell, and SIGKILL after KILL_DELAY to whatever is left of it
and of its remote tasks. qsig signals all of the session. All hosts of a job are this one. The server's state is in
$HOME/.pbs, so that jobs find it too.

usage: pbs.py qsub|qstat|qdel|qsig|pbs_tmrsh ARGUMENT...
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"])
SERVER = HOME / ".pbs"
KILL_DELAY = 10.0
DEFAULT_QUEUE = "workq"
RESOURCES = frozenset(("select", "place", "walltime"))
TAKES_VALUE = frozenset("lvNqAjoeW")


def refuse(code: int, text: str) -> int:
    print(f"qsub: {text}", file=sys.stderr)
    return code


def options(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({letter: values}, operands); raises ValueError for what this qsub does not know."""
    found: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        word = rest.pop(0)
        if word[1] not in TAKES_VALUE or (len(word) == 2 and not rest):
            raise ValueError(f"invalid option {word}")
        found.setdefault(word[1], []).append(word[2:] or rest.pop(0))
    return found, rest


def directives(script: str) -> list[str]:
    """The words of the #PBS lines above the first command."""
    words: list[str] = []
    for line in script.splitlines()[1:]:
        if line.startswith("#PBS "):
            words += line[5:].split()
        elif line.strip() and not line.startswith("#"):
            break
    return words


def resources(values: Sequence[str]) -> dict[str, str]:
    pairs = (entry.partition("=") for value in values for entry in value.split(","))
    return {name: value for name, _, value in pairs}


def variables(values: Sequence[str]) -> dict[str, str]:
    """What -v passes: NAME=value, or NAME with its value at qsub."""
    pairs = [entry.partition("=") for value in values for entry in value.split(",")]
    return {name: value if equals else os.environ[name] for name, equals, value in pairs}


def qsub(*words: str) -> int:
    try:
        given, operands = options(words)
        (script,) = operands
    except ValueError as error:
        return refuse(2, f"usage: qsub [options] script ({error})")
    text = Path(script).read_text()
    own, _ = options(directives(text))
    wanted = {**resources(own.get("l", [])), **resources(given.get("l", []))}
    if unknown := set(wanted) - RESOURCES:
        return refuse(187, f"Unknown resource: {' '.join(unknown)}")
    last = {letter: values[-1] for letter, values in {**own, **given}.items()}
    queue = last.get("q", DEFAULT_QUEUE)
    if queue != DEFAULT_QUEUE:
        return refuse(170, f"Unknown queue {queue}")
    number = new_number()
    job_id = f"{number}.server"
    folder = SERVER / str(number)
    origin = {"PBS_O_WORKDIR": str(Path.cwd()), "PBS_O_HOME": str(HOME), "PBS_O_QUEUE": queue, "PBS_O_HOST": "login"}
    name = last.get("N", Path(script).name)
    job = {
        "id": job_id, "name": name, "queue": queue, "account": last.get("A", ""), "resources": wanted,
        "variables": {**origin, **variables(given.get("v", []))}, "state": "Q", "exit": None, "submitted": list(words),
        "output": last.get("o", f"{Path.cwd()}/{name}.o{number}").removeprefix("login:"),
    }  # fmt: skip
    (folder / "script").write_text(text)
    (folder / "script").chmod(0o700)
    save(folder, job)
    subprocess.Popen(
        [sys.executable, __file__, "mom", str(number)], start_new_session=True, cwd="/", stdin=subprocess.DEVNULL,
        stdout=(folder / "mom").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    print(job_id)
    if "block=true" not in last.get("W", ""):
        return 0
    while load(folder)["state"] != "F":
        time.sleep(0.1)
    return int(load(folder)["exit"])


def new_number() -> int:
    SERVER.mkdir(exist_ok=True)
    with (SERVER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        number = 12 + sum(entry.is_dir() for entry in SERVER.iterdir())
        (SERVER / str(number)).mkdir()
    return number


def save(folder: Path, job: dict[str, Any]) -> None:
    fresh = folder / f"job.{os.getpid()}"
    fresh.write_text(json.dumps(job))
    fresh.rename(folder / "job")


def load(folder: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((folder / "job").read_text())
    return job


def seconds(clock: str) -> int:
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total


def node_file(job: dict[str, Any]) -> str:
    """One line for each mpiproc of each chunk: this host, node2, node3, …"""
    count, _, chunk = job["resources"].get("select", "1").partition(":")
    ranks = re.search(r"mpiprocs=(\d+)", chunk)
    hosts = [socket.gethostname(), *(f"node{number}" for number in range(2, int(count) + 1))]
    return "".join(f"{host}\n" * int(ranks[1] if ranks else 1) for host in hosts)


def mom(number: str) -> int:
    """Run a job to its end."""
    folder = SERVER / number
    job = load(folder)
    temporary = Path(f"/var/tmp/pbs.{job['id']}.{os.getpid()}.standin.example.org")
    temporary.mkdir(mode=0o700)
    nodes = folder / "nodes"
    nodes.write_text(node_file(job))
    cpus = re.search(r"ncpus=(\d+)", job["resources"].get("select", ""))
    environ = {
        "HOME": str(HOME), "USER": "user", "LOGNAME": "user", "SHELL": "/bin/bash", "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8", **job["variables"], "PBS_JOBID": job["id"], "PBS_JOBNAME": job["name"],
        "PBS_QUEUE": job["queue"], "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_NODEFILE": str(nodes),
        "NCPUS": cpus[1] if cpus else "1", "TMPDIR": str(temporary),
    }  # fmt: skip
    (folder / "environment").write_text(json.dumps(environ))
    job.update(state="R", start=time.time())
    save(folder, job)
    with (folder / "output").open("wb") as output:
        # The top shell reads the name of the script, and runs it as a command.
        shell = subprocess.Popen(
            ["-bash"], executable="/bin/bash", env=environ, cwd=HOME, start_new_session=True, stdin=subprocess.PIPE,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    job.update(shell=shell.pid)
    save(folder, job)
    assert shell.stdin is not None
    shell.stdin.write(f"{folder / 'script'}\n".encode())
    shell.stdin.close()
    end = time.monotonic() + seconds(job["resources"].get("walltime", "1:00:00"))
    kill_at = float("inf")
    while shell.poll() is None:
        now = time.monotonic()
        if kill_at == float("inf") and (now > end or (folder / "delete").exists()):
            signal_sessions([shell.pid], signal.SIGTERM, spare=shell.pid)
            kill_at = now + KILL_DELAY
        elif now > kill_at:
            signal_sessions([shell.pid, *tasks(folder)], signal.SIGKILL)
        time.sleep(0.05)
    signal_sessions([shell.pid, *tasks(folder)], signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)
    nodes.unlink()
    shutil.copy(folder / "output", job["output"])
    code = shell.returncode
    job.update(state="F", exit=code if code >= 0 else 256 - code)
    save(folder, job)
    return 0


def tasks(folder: Path) -> list[int]:
    return [int(entry.name.partition(".")[2]) for entry in folder.glob("task.*")]


def signal_sessions(sessions: Sequence[int], signum: int, spare: int = 0) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if pid != spare and os.getsid(pid) in sessions:
                os.kill(pid, signum)


def qdel(*ids: str) -> int:
    for job_id in ids:
        (SERVER / job_id.partition(".")[0] / "delete").touch()
    return 0


def qsig(_flag: str, name: str, job_id: str) -> int:
    """qsig -s SIGUSR1 JOB: the shell at the top gets it as well."""
    job = load(SERVER / job_id.partition(".")[0])
    signal_sessions([int(job["shell"])], signal.Signals[name])
    return 0


def exec_host(job: dict[str, Any]) -> str:
    """node1/0*2+node2/0*2: the CPUs of each chunk."""
    cpus = re.search(r"ncpus=(\d+)", job["resources"].get("select", ""))
    hosts = dict.fromkeys(node_file(job).split())
    return "+".join(f"{host}/0*{cpus[1] if cpus else 1}" for host in hosts)


def qstat(*words: str) -> int:
    ended_too, ids = "-x" in words, [word for word in words if not word.startswith("-")]
    code = 0
    for job_id in ids:
        folder = SERVER / job_id.partition(".")[0]
        if not folder.exists():
            print(f"qstat: Unknown Job Id {job_id}", file=sys.stderr)
            code = 153
        elif load(folder)["state"] == "F" and not ended_too:
            print(f"qstat: {job_id} Job has finished, use -x to obtain historical job information", file=sys.stderr)
            code = 35
        else:
            print(described(load(folder)), end="\n\n")
    return code


def described(job: dict[str, Any]) -> str:
    """`qstat -f`: derived resources are among those that were asked for, and long lines are broken."""
    select = job["resources"].get("select", "1")
    attributes = {
        "Job_Name": job["name"], "Job_Owner": "user@login", "job_state": job["state"], "queue": job["queue"],
        **({"Account_Name": job["account"]} if job["account"] else {}),
        "Output_Path": f"login:{job['output']}", "Resource_List.ncpus": "4",
        "Resource_List.nodect": select.partition(":")[0],
        **{f"Resource_List.{name}": value for name, value in job["resources"].items()},
        **({"stime": time.ctime(job["start"]), "exec_host": exec_host(job)} if "start" in job else {}),
        "Variable_List": ",".join(f"{name}={value}" for name, value in job["variables"].items()),
        **({"Exit_status": str(job["exit"])} if job["exit"] is not None else {}),
    }  # fmt: skip
    lines = [f"    {name} = {value}" for name, value in attributes.items()]
    return "\n".join([f"Job Id: {job['id']}", *("\n\t".join(re.findall(".{1,78}", line)) for line in lines)])


def pbs_tmrsh(host: str, *argv: str) -> int:
    """Start a task on a host of the job: no shell, a session of its own, the job's first environment, no signals."""
    folder = SERVER / os.environ["PBS_JOBID"].partition(".")[0]
    if host not in node_file(load(folder)).split():
        return refuse(1, f"pbs_tmrsh: {host} is not a host of the job")
    environ = json.loads((folder / "environment").read_text())
    task = subprocess.Popen(argv, start_new_session=True, env=environ)
    (folder / f"task.{task.pid}").write_text(host)
    return task.wait()


COMMANDS: dict[str, Callable[..., int]] = {
    "qsub": qsub,
    "qstat": qstat,
    "qdel": qdel,
    "qsig": qsig,
    "pbs_tmrsh": pbs_tmrsh,
    "mom": mom,
}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
