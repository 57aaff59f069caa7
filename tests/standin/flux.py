"""A stand-in for the command `flux`: it runs a job on this host under the rules of flux-core's manuals and source.

A job of `flux batch` is an instance of its own, in which a copy of the script is the initial program: FLUX_URI names
the instance, FLUX_JOB_ID is not set, and `flux --parent` speaks to the one that it was submitted to. `flux run` starts
ranks, here through the mpiexec on PATH, and passes TERM, HUP, ALRM, USR1 and USR2 on to them; before 0.73 it died of
them, as it does here with FLUX_STANDIN_OLD set. `flux cancel` and the time limit signal the instance's broker,
which sends HUP to the script and what that has started; after kill-timeout all is killed. All hosts of a job are this
one. The state is in $HOME/.flux.

usage: flux.py flux COMMAND...
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import batch
from batch import load, save

SERVER = batch.Server(".flux", __file__)
KILL_TIMEOUT = 5.0
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
BATCH_OPTIONS = ("job-name", "nodes", "exclusive", "time-limit", "output", "nslots", "cores-per-slot", "bank", "queue")


def f58(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return f"ƒ{digits or BASE58[0]}"


def decimal(job_id: str) -> int:
    """The number of an id in either form."""
    if job_id.isdecimal():
        return int(job_id)
    return functools.reduce(lambda value, digit: 58 * value + BASE58.index(digit), job_id[1:], 0)


def own() -> int:
    """The job that is the instance which FLUX_URI names."""
    return int(os.environ["FLUX_URI"].rpartition("/")[2])


def options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({option: value}, the words behind them); raises ValueError for what flux batch does not know."""
    found, rest = {}, list(words)
    while rest and rest[0].startswith("--"):
        name, _, value = rest.pop(0)[2:].partition("=")
        if name not in BATCH_OPTIONS:
            raise ValueError(f"unrecognized arguments: --{name}")
        found[name] = value
    return found, rest


def directives(script: str) -> list[str]:
    lines = script.splitlines()
    places = [place for place, line in enumerate(lines) if re.match(r"[^A-Za-z0-9]*(flux|FLUX):", line)]
    if places and places != list(range(places[0], places[-1] + 1)):
        raise ValueError("orphan 'flux:' detected")
    return [word for place in places for word in shlex.split(lines[place].partition(":")[2], comments=True)]


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([smh]?)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit] if unit else float(number) * 60


def flux_batch(*words: str) -> int:
    try:
        given, (script, *arguments) = options(words)
        text = Path(script).read_text()
        asked = {**options(directives(text))[0], **given}
    except ValueError as error:
        return batch.refuse("flux-batch", 1, f"ERROR: {error}")
    system = {
        "job": {"name": asked.get("job-name", Path(script).name)}, "cwd": str(Path.cwd()),
        "duration": seconds(asked.get("time-limit", "0")), "environment": dict(os.environ),
        "shell": {"options": {"output": {"stdout": {"path": asked.get("output", "flux-{{id}}.out")}}}},
        "files": {"script": {"mode": 0o100700, "data": text}},
    }  # fmt: skip
    nodes = [{"type": "node", "count": int(asked.get("nodes", "1")), "exclusive": "exclusive" in asked}]
    spec = {"version": 1, "resources": nodes, "tasks": [{"command": ["script", *arguments]}]}
    return submit({**spec, "attributes": {"system": system}})


def submit(spec: dict[str, Any]) -> int:
    job = SERVER.accept({"spec": spec, "result": ""}, spec["attributes"]["system"]["files"]["script"]["data"])
    print(f58(job["number"]))
    return 0


def mom(number: str) -> int:
    """Run a job to its end: the broker of the instance, and its initial program."""
    folder = SERVER.of(number)
    job = load(folder)
    system = job["spec"]["attributes"]["system"]
    # The broker takes away what would be the submitter's own job.
    kept = {name: value for name, value in system["environment"].items() if name != "FLUX_JOB_ID"}
    environ = {**kept, "FLUX_URI": f"local://{folder}", "FLUX_ENCLOSING_ID": f58(0)}
    target = system["shell"]["options"]["output"]["stdout"]["path"].replace("{{id}}", f58(int(number)))
    with Path(system["cwd"], target).open("ab") as sink:
        shell = subprocess.Popen(
            [folder / "script", *job["spec"]["tasks"][0]["command"][1:]], env=environ, cwd=system["cwd"],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    end = time.time() + (system["duration"] or 1e9)
    job.update(state="R", end=end)
    save(folder, job)

    def ending() -> batch.Ladder:
        result = "CANCELED" if (folder / "delete").exists() else "TIMEOUT" if time.time() > end else ""
        if not result:
            return ()
        job.update(result=result)
        hang_up = functools.partial(batch.signal_sessions, [shell.pid], signal.SIGHUP)
        return [(0.0, hang_up), (KILL_TIMEOUT, functools.partial(batch.kill, folder, shell.pid))]

    batch.watch(shell, ending)
    batch.kill(folder, shell.pid)
    job.update(state="F", exit=shell.returncode)
    save(folder, job)
    return 0


def flux_run(*words: str) -> int:
    """flux run --nodes=N --tasks-per-node=R --exclusive COMMAND..."""
    first = next(place for place, word in enumerate(words) if not word.startswith("--"))
    asked, command = dict(word[2:].partition("=")[::2] for word in words[:first]), words[first:]
    folder = SERVER.of(own())
    if int(asked["nodes"]) > load(folder)["spec"]["resources"][0]["count"]:
        return batch.refuse("flux-run", 1, "ERROR: unsatisfiable request")
    ranks = str(int(asked["nodes"]) * int(asked["tasks-per-node"]))
    mpiexec = shutil.which("mpiexec") or "mpiexec"
    job = {**os.environ, "FLUX_JOB_ID": f58(1), "FLUX_JOB_NNODES": asked["nodes"], "FLUX_JOB_SIZE": ranks}
    task = batch.start_task(folder, "all", [mpiexec, "-n", ranks, *command], job)
    if "FLUX_STANDIN_OLD" not in os.environ:
        for signum in PASSED_ON:
            signal.signal(signum, lambda signum, _: signal_ranks(task.pid, signum))
    code = task.wait()
    return code if code >= 0 else 128 - code


def signal_ranks(mpiexec: int, signum: int) -> None:
    """Flux has no launcher between itself and the ranks: these are children of the proxies that mpiexec has started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    for pid, parent_pid in parents.items():
        if parents.get(parent_pid) == mpiexec:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)


def flux_jobs(*words: str) -> int:
    """flux jobs -a --no-header --format=FORMAT ID..."""
    form = next(word.partition("=")[2] for word in words if word.startswith("--format="))
    code = 0
    for job_id in [word for word in words if not word.startswith("-")]:
        if not SERVER.of(decimal(job_id)).exists():
            code = batch.refuse("flux-jobs", 1, f"ERROR: JobID {job_id} unknown")
            continue
        job = load(SERVER.of(decimal(job_id)))
        ended = job["state"] == "F"
        known = {
            "id.dec": str(job["number"]), "state": {"Q": "SCHED", "R": "RUN", "F": "INACTIVE"}[job["state"]],
            "result": (job["result"] or ("FAILED" if job["exit"] else "COMPLETED")) if ended else "",
            "returncode": str(job["exit"]) if ended else "",
        }  # fmt: skip
        print(re.sub(r"\{([a-z.]+)\}", lambda found, known=known: known[found[1]], form))
    return code


def flux_cancel(*ids: str) -> int:
    for job_id in ids:
        (SERVER.of(decimal(job_id)) / "delete").touch()
    return 0


def killall(*words: str) -> int:
    """flux job killall -f -s SIGNAL: to the ranks of this instance."""
    if words[:2] != ("-f", "-s"):
        return batch.refuse("flux-job", 1, "killall: -f is needed to confirm")
    for pid in batch.tasks(SERVER.of(own())):
        signal_ranks(pid, signal.Signals[f"SIG{words[2].removeprefix('SIG')}"])
    return 0


def flux_job(verb: str, *words: str) -> int:
    """Of this instance: id, killall. Of its parent: info, submit, timeleft."""
    if verb == "id":
        print(f58(decimal(words[-1])) if words[0] == "--to=f58" else decimal(words[-1]))
        return 0
    if verb == "killall":
        return killall(*words)
    return batch.refuse("flux-job", 1, f"{verb} {' '.join(words)}: this instance has no such job")


def parent(_job: str, verb: str, *words: str) -> int:
    """flux --parent job …, which needs an instance that has a parent."""
    own()
    if verb == "info":
        print(json.dumps(load(SERVER.of(decimal(words[0])))["spec"]))
    elif verb == "submit":
        return submit(json.loads(sys.stdin.read()))
    else:
        print(max(0, int(load(SERVER.of(decimal(words[0])))["end"] - time.time())))
    return 0


def getattr_(name: str) -> int:
    print({"jobid": f58(own())}[name])
    return 0


def resource(*words: str) -> int:
    """flux resource list -n -o {nnodes}"""
    print(words[-1].format(nnodes=load(SERVER.of(own()))["spec"]["resources"][0]["count"]))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "batch": flux_batch,
    "run": flux_run,
    "jobs": flux_jobs,
    "cancel": flux_cancel,
    "job": flux_job,
    "--parent": parent,
    "getattr": getattr_,
    "resource": resource,
}

if __name__ == "__main__":
    sys.exit(mom(sys.argv[2]) if sys.argv[1] == "mom" else COMMANDS[sys.argv[2]](*sys.argv[3:]))
