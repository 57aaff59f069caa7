"""Stand-ins for PBS's qsub, qstat, qdel, qsig and pbs_tmrsh: they run a job on this host under PBS's rules.

The rules are those that a real OpenPBS 23.06 showed. A job runs the spooled copy of its script in a login shell in
$HOME, with a login's environment and what `-v` passes; its hosts file and TMPDIR exist while it runs. qdel and the
walltime send SIGTERM to the job's session but the top shell, and SIGKILL after KILL_DELAY to whatever is left of it
and of its remote tasks. qsig signals all of the session. All hosts of a job are this one. The server's state is in
$HOME/.pbs, so that jobs find it too.

usage: pbs.py qsub|qstat|qdel|qsig|pbs_tmrsh ARGUMENT...
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import batch
from batch import HOME, load, save

SERVER = batch.Server(".pbs", __file__, "{}.server".format)
KILL_DELAY = 10.0
DEFAULT_QUEUE = "workq"
RESOURCES = frozenset(("select", "place", "walltime"))
TAKES_VALUE = frozenset("lvNqAjoeW")


refuse = functools.partial(batch.refuse, "qsub")


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
    origin = {"PBS_O_WORKDIR": str(Path.cwd()), "PBS_O_HOME": str(HOME), "PBS_O_QUEUE": queue, "PBS_O_HOST": "login"}
    job = SERVER.accept(
        {
            "name": last.get("N", Path(script).name), "queue": queue, "account": last.get("A", ""), "resources": wanted,
            "variables": {**origin, **variables(given.get("v", []))}, "submitted": list(words),
            "folder": str(Path.cwd()), "output": last.get("o", ""),
        },
        text,
    )  # fmt: skip
    print(job["id"])
    if "block=true" not in last.get("W", ""):
        return 0
    folder = SERVER.of(job["number"])
    while load(folder)["state"] != "F":
        time.sleep(0.1)
    return int(load(folder)["exit"])


def folder_of(job_id: str) -> Path:
    return SERVER.of(job_id.partition(".")[0])


def output(job: dict[str, Any]) -> str:
    """rayhpc.o12 where qsub was called, unless -o says otherwise."""
    named = str(job["output"]) or f"{job['folder']}/{job['name']}.o{job['number']}"
    return named.removeprefix("login:")


def seconds(clock: str) -> int:
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total


def node_file(job: dict[str, Any]) -> str:
    """One line for each mpiproc of each chunk: this host, node2, node3, …"""
    count, _, chunk = job["resources"].get("select", "1").partition(":")
    ranks = re.search(r"mpiprocs=(\d+)", chunk)
    return "".join(f"{host}\n" * int(ranks[1] if ranks else 1) for host in batch.hosts(int(count)))


def mom(number: str) -> int:
    """Run a job to its end."""
    folder = SERVER.of(number)
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
    with (folder / "output").open("wb") as sink:
        # The top shell reads the name of the script, and runs it as a command.
        shell = subprocess.Popen(
            ["-bash"], executable="/bin/bash", env=environ, cwd=HOME, start_new_session=True, stdin=subprocess.PIPE,
            stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    job.update(shell=shell.pid)
    save(folder, job)
    assert shell.stdin is not None
    shell.stdin.write(f"{folder / 'script'}\n".encode())
    shell.stdin.close()
    end = time.monotonic() + seconds(job["resources"].get("walltime", "1:00:00"))
    kill = functools.partial(batch.kill, folder, shell.pid)
    ladder = [(0.0, lambda: batch.signal_sessions([shell.pid], signal.SIGTERM, spare=shell.pid)), (KILL_DELAY, kill)]
    batch.watch(shell, lambda: ladder if time.monotonic() > end or (folder / "delete").exists() else ())
    kill()
    shutil.rmtree(temporary, ignore_errors=True)
    nodes.unlink()
    shutil.copy(folder / "output", output(job))
    code = shell.returncode
    job.update(state="F", exit=code if code >= 0 else 256 - code)
    save(folder, job)
    return 0


def qdel(*ids: str) -> int:
    for job_id in ids:
        (folder_of(job_id) / "delete").touch()
    return 0


def qsig(_flag: str, name: str, job_id: str) -> int:
    """qsig -s SIGUSR1 JOB: the shell at the top gets it as well."""
    job = load(folder_of(job_id))
    batch.signal_sessions([int(job["shell"])], signal.Signals[name])
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
        folder = folder_of(job_id)
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
        "Output_Path": f"login:{output(job)}", "Resource_List.ncpus": "4",
        "Resource_List.nodect": select.partition(":")[0],
        **{f"Resource_List.{name}": value for name, value in job["resources"].items()},
        **({"stime": time.ctime(job["start"]), "exec_host": exec_host(job)} if "start" in job else {}),
        "Variable_List": ",".join(f"{name}={value}" for name, value in job["variables"].items()),
        **({"Exit_status": str(job["exit"])} if job["exit"] is not None else {}),
        **({"substate": "91"} if job["state"] == "F" and (folder_of(job["id"]) / "delete").exists() else {}),
    }  # fmt: skip
    lines = [f"    {name} = {value}" for name, value in attributes.items()]
    return "\n".join([f"Job Id: {job['id']}", *("\n\t".join(re.findall(".{1,78}", line)) for line in lines)])


def pbs_tmrsh(host: str, *argv: str) -> int:
    """Start a task on a host of the job: no shell, a session of its own, the job's first environment, no signals."""
    folder = folder_of(os.environ["PBS_JOBID"])
    if host not in node_file(load(folder)).split():
        return refuse(1, f"pbs_tmrsh: {host} is not a host of the job")
    environ = json.loads((folder / "environment").read_text())
    return batch.start_task(folder, host, argv, environ).wait()


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
