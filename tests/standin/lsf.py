"""Stand-ins for LSF's bsub, bjobs, bkill and blaunch: they run a job on this host under the rules of IBM's manuals.

bsub reads the script from its standard input. The job runs a spooled copy of it, in the directory and the environment
of bsub. It is signalled as a whole, its tasks on other hosts included: by bkill INT, TERM and KILL, at the run limit
USR2 before them. A job that ends with a code of -Q runs again, under the same id. The output file is written at the
end, with a report. All hosts of a job are this one. The server's state is in $HOME/.lsf.

usage: lsf.py bsub|bjobs|bkill|blaunch ARGUMENT...
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import batch
from batch import load, save

SERVER = batch.Server(".lsf", __file__)
# JOB_TERMINATE_INTERVAL, by which the signals follow each other.
INTERVAL = 10.0
TAKES_VALUE = ("-gpu", "-J", "-n", "-R", "-W", "-o", "-Q", "-q", "-P")


def options(words: Sequence[str]) -> dict[str, str]:
    """{letter: value}; raises ValueError for what this bsub does not know."""
    found, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if word not in TAKES_VALUE or not rest:
            raise ValueError(word)
        found[word] = rest.pop(0)
    return found


def directives(script: str) -> list[str]:
    return [word for line in re.findall(r"^#BSUB (.*)$", script, re.MULTILINE) for word in shlex.split(line)]


def bsub(*words: str) -> int:
    text = sys.stdin.read()
    try:
        asked = {**options(directives(text)), **options(words)}
        slots = int(asked.get("-n", "1"))
        ptile = int(re.sub(r"span\[ptile=(\d+)\]", r"\1", asked.get("-R", str(slots))))
    except ValueError as error:
        return batch.refuse("bsub", 255, f"Bad argument: {error}. Job not submitted.")
    job = SERVER.accept(
        {
            "name": asked.get("-J", "script"), "hosts": batch.hosts(-(-slots // ptile)), "slots": min(slots, ptile),
            "limit": limit(asked.get("-W", "60")), "requeue": asked.get("-Q", "").split(), "reason": "",
            "output": asked.get("-o", ""), "folder": str(Path.cwd()), "environment": dict(os.environ),
        },
        text,
    )  # fmt: skip
    print(f"Job <{job['id']}> is submitted to default queue <normal>.")
    return 0


def limit(text: str) -> int:
    """Seconds of hours:minutes, or of minutes."""
    hours, _, minutes = text.rpartition(":")
    return 3600 * int(hours or 0) + 60 * int(minutes)


def mom(number: str) -> int:
    """Run a job to its end, as often as its code is one of -Q."""
    folder = SERVER.of(number)
    while True:
        code = attempt(folder)
        job = load(folder)
        report(folder, job, code)
        if job["reason"] or str(code) not in job["requeue"]:
            break
        job.update(state="Q")
        save(folder, job)
    job.update(state="F", exit=code)
    save(folder, job)
    return 0


def attempt(folder: Path) -> int:
    """Run the job once; the exit code."""
    job = load(folder)
    each = [f"{host} {job['slots']}" for host in job["hosts"]]
    variables = {
        "LSB_JOBID": job["id"], "LSB_JOBINDEX": "0", "LSB_JOBNAME": job["name"], "LSB_QUEUE": "normal",
        "LSB_MCPU_HOSTS": " ".join(each), "LSB_HOSTS": " ".join(f"{host} " * job["slots"] for host in job["hosts"]),
        "LSB_BATCH_JID": job["id"], "LSB_SUB_HOST": "login", "LS_SUBCWD": job["folder"],
    }  # fmt: skip
    with (folder / "output").open("wb") as sink:
        shell = subprocess.Popen(
            [folder / "script"], env={**job["environment"], **variables}, cwd=job["folder"], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    end = time.time() + job["limit"]
    job.update(state="R", end=end)
    save(folder, job)

    def send(name: str) -> None:
        batch.signal_sessions([shell.pid, *batch.tasks(folder)], signal.Signals[name])

    def ladder(*names: str) -> batch.Ladder:
        return [(place * INTERVAL, functools.partial(send, name)) for place, name in enumerate(names)]

    def ending() -> batch.Ladder:
        if (folder / "delete").exists():
            note(folder, "TERM_OWNER: job killed by owner")
            return ladder("SIGINT", "SIGTERM", "SIGKILL")
        if time.time() > end:
            note(folder, "TERM_RUNLIMIT: job killed after reaching LSF run time limit")
            return ladder("SIGUSR2", "SIGINT", "SIGTERM", "SIGKILL")
        return ()

    batch.watch(shell, ending)
    batch.kill(folder, shell.pid)
    code = shell.returncode
    return code if code >= 0 else 128 - code


def note(folder: Path, reason: str) -> None:
    job = load(folder)
    job.update(reason=reason)
    save(folder, job)


def report(folder: Path, job: dict[str, Any], code: int) -> None:
    """What LSF adds to the output file at the end, and the output above it."""
    if not job["output"]:
        return
    end = "Successfully completed." if code == 0 else f"Exited with exit code {code}."
    with Path(job["folder"], job["output"].replace("%J", job["id"])).open("ab") as sink:
        sink.write(f"Sender: LSF System <lsfadmin@standin>\nSubject: Job {job['id']}\n\n{end}\n\n".encode())
        sink.write(b"The output (if any) follows:\n\n" + (folder / "output").read_bytes())


STATES = {"Q": "PEND", "R": "RUN", "F": "DONE"}


def bjobs(*words: str) -> int:
    """bjobs [-a] -noheader -o FORMAT ID..."""
    rest = [word for word in words if word not in ("-a", "-noheader")]
    fields, _, delimiter = rest[rest.index("-o") + 1].partition("delimiter=")
    code = 0
    for job_id in rest[rest.index("-o") + 2 :]:
        if not SERVER.of(job_id).exists():
            code = batch.refuse("bjobs", 255, f"Job <{job_id}> is not found")
            continue
        known = facts(load(SERVER.of(job_id)))
        print((delimiter.strip("'\"") or " ").join(known[name] for name in fields.split()))
    return code


def facts(job: dict[str, Any]) -> dict[str, str]:
    ended, code = job["state"] == "F", job["exit"]
    left = max(0, int(job["end"] - time.time())) // 60 if job["state"] == "R" else 0
    return {
        "jobid": job["id"], "stat": "EXIT" if ended and code else STATES[job["state"]],
        "exit_code": str(code) if ended and code else "-", "exit_reason": job["reason"] or "-", "jobindex": "0",
        "time_left": f"{left // 60}:{left % 60} L" if job["state"] == "R" else "-",
    }  # fmt: skip


def bkill(*ids: str) -> int:
    for job_id in ids:
        (SERVER.of(job_id) / "delete").touch()
        print(f"Job <{job_id}> is being terminated")
    return 0


def blaunch(flag: str, host: str, *argv: str) -> int:
    """blaunch -n HOST COMMAND...: a task of the job, without standard input, in this environment."""
    folder = SERVER.of(os.environ["LSB_JOBID"])
    if flag != "-n" or host not in load(folder)["hosts"]:
        return batch.refuse("blaunch", 1, f"{host} is not allocated to the job")
    return batch.start_task(folder, host, argv, dict(os.environ)).wait()


COMMANDS: dict[str, Callable[..., int]] = {"bsub": bsub, "bjobs": bjobs, "bkill": bkill, "blaunch": blaunch, "mom": mom}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
