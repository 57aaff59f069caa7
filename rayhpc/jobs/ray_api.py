"""Ray's job API, as the dashboard of a cluster serves it: what is asked of it, and why nobody answers.

Questions go over Ray's documented REST interface: each with a deadline, and with no import of ray, which takes a second
here and many on a login node's slow file system; a state that this release of Ray has no word for stays readable. What
takes more than a question, packing files and following a log, is in ray_client.py.

The token goes into a header of each request: Ray's own way, RAY_AUTH_TOKEN_PATH, holds for one cluster a process.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.parse
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayhpc.errors import RayhpcError, configuration
from rayhpc.user_input import files

_ASK_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_READY_SECONDS = 15.0
_PAUSE_SECONDS = 0.3
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# What lists of jobs show is in a job's metadata. The user may be another name than the account that submitted it.
USER, ACCOUNT, COMMAND = "user", "account", "command"


@dataclass(frozen=True)
class Server:
    """A cluster's job API. name: the run's id, or the URL; gcs: HOST:PORT of the GCS, empty if it is not registered.

    token_file: None for a cluster of another tool's, which may ask for none; forwarded: reached through a port of this
    host that may break, and comes back.
    """

    name: str
    url: str
    token_file: Path | None
    gcs: str = ""
    forwarded: bool = False


@dataclass(frozen=True)
class Job:
    """A job. status: Ray's word; started_at, ended_at: Unix seconds, 0.0 before; code: None if not known.

    user: whom lists show; account: who submitted it; script: what Ray runs, and entrypoint what the user typed.
    """

    id: str
    cluster: str
    user: str
    status: str
    started_at: float
    ended_at: float
    entrypoint: str
    code: int | None
    message: str
    account: str = ""
    script: str = field(default="", repr=False)

    def is_of(self, account: str) -> bool:
        """True for what this account has submitted, or what was submitted in its name."""
        return account in (self.user, self.account)

    @property
    def ended(self) -> bool:
        """True once it is over; a state that we do not know is none of an end."""
        return self.status in _ENDED

    @property
    def exit_code(self) -> int:
        """The job's code, 128 + n for signal n; 143 for STOPPED, and 1 for FAILED where Ray tells none."""
        if self.status == "STOPPED":
            return 143
        if self.code is None:
            return 0 if self.status == "SUCCEEDED" else 1
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def words(self) -> str:
        """'FAILED, exit code 7', with Ray's reason where the job itself never ran."""
        code = f", exit code {self.exit_code}" if self.ended else ""
        why = self.message.strip().splitlines()[:1] if self.status == "FAILED" and self.code is None else []
        return "".join([self.status, code, *(f": {line}" for line in why)])


class Late(RayhpcError):
    """No answer, from a cluster that is there: another try may get one, or find the cluster gone."""


def every(server: Server) -> list[Job]:
    """All jobs that were submitted to the cluster, the oldest first; raises RayhpcError where they cannot be told."""
    rows = [row for row in _json(server, "/api/jobs/") if row.get("type") == "SUBMISSION"]
    return sorted((_job(server, row) for row in rows), key=lambda job: (job.started_at, job.id))


def one(server: Server, job_id: str) -> Job:
    """A job as it is now; raises RayhpcError."""
    return _job(server, _json(server, f"/api/jobs/{urllib.parse.quote(job_id, safe='')}"))


def logs(server: Server, job_id: str) -> str:
    """All that a job has written so far; raises RayhpcError."""
    return str(_json(server, f"/api/jobs/{urllib.parse.quote(job_id, safe='')}/logs")["logs"])


def lost_output(job: Job, text: str) -> str:
    """What to say of a log that is not that of the job's own node; empty where it is, or the job has not run.

    Ray writes this line there before the job begins; what comes before it is written on the head (2.60).
    """
    if job.code is None or f"Running entrypoint for job {job.id}: " in text:
        return ""
    return (
        f"WARNING: what job {job.id} has written is not in this log: it ran on another node of its host, whose log Ray "
        f"does not find; the run's ray-logs.tar.gz has it as job-driver-{job.id}.log"
    )


def stop(server: Server, job_id: str) -> None:
    """Ask for a job's end: SIGTERM, after 3 s SIGKILL; raises RayhpcError where the cluster refuses."""
    _json(server, f"/api/jobs/{urllib.parse.quote(job_id, safe='')}/stop", "POST")


def probe(server: Server) -> None:
    """Raises RayhpcError if the cluster takes no jobs with this token."""
    _json(server, "/api/version")


def until_ready(server: Server) -> None:
    """As probe(), but waits for a dashboard that is not up yet: a head does not wait for its own."""
    end = time.monotonic() + _READY_SECONDS
    while True:
        try:
            return probe(server)
        except Late:
            if time.monotonic() > end:
                raise
        time.sleep(_PAUSE_SECONDS)


def _job(server: Server, row: dict[str, Any]) -> Job:
    metadata = row.get("metadata") or {}
    return Job(
        id=str(row["submission_id"]),
        cluster=server.name,
        user=str(metadata.get(USER, "")),
        status=str(row["status"]),
        started_at=(row.get("start_time") or 0) / 1000,
        ended_at=(row.get("end_time") or 0) / 1000,
        entrypoint=str(metadata.get(COMMAND) or row.get("entrypoint", "")),
        code=row.get("driver_exit_code"),
        message=str(row.get("message") or ""),
        account=str(metadata.get(ACCOUNT, "")),
        script=str(row.get("entrypoint", "")),
    )


def _json(server: Server, path: str, method: str = "GET") -> Any:
    status, text = _exchange(server, path, method)
    if status != http.client.OK:
        raise _refusal(server, status, text)
    try:
        return json.loads(text)
    except ValueError:
        raise _refusal(server, status, text) from None


def _exchange(server: Server, path: str, method: str) -> tuple[int, str]:
    """Status and text of an answer. No proxy, no redirection: the token goes nowhere else."""
    address = urllib.parse.urlsplit(server.url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    headers = authorization(server)
    with closing(kind(address.hostname or "", address.port, timeout=_ASK_SECONDS)) as connection:
        try:
            connection.request(method, address.path.rstrip("/") + path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise silence(server, error) from error


def authorization(server: Server) -> dict[str, str]:
    """The header that lets a request in, if there is a token; raises RayhpcError where it cannot be read."""
    return {"Authorization": f"Bearer {_token(server, server.token_file)}"} if server.token_file else {}


def _token(server: Server, file: Path) -> str:
    try:
        return files.read_text(file).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        registered = server.gcs or server.forwarded  # a run takes its entry in the registry along
        if registered and isinstance(error, FileNotFoundError):
            raise _gone(server, f"{file}: {why}", next_step="rayhpc cluster list") from error
        raise configuration(
            f"the token of {server.name} cannot be read: {why}",
            f"file: {file}",
            next_step="ask who runs the cluster for a file that you may read, and name it with --token-file",
        ) from error


def silence(server: Server, error: Exception) -> RayhpcError:
    """Why nobody answers: the cluster is gone, or its dashboard alone."""
    evidence = [f"{server.url}: {_reason(error)}"]
    if server.gcs:
        heard = _listens(server.gcs)
        evidence.append(f"{server.gcs} (GCS): {heard or 'open'}")
        if heard:
            step = f"rayhpc cluster list shows what runs; rayhpc cluster forget {server.name}"
            return _gone(server, *evidence, next_step=step)
        hung = configuration(
            f"the dashboard of cluster {server.name} does not answer, though the cluster runs",
            *evidence,
            next_step=f"try again; if it hangs for good: rayhpc cluster stop {server.name}, and start another",
        )
        return Late(hung.fault)
    if server.forwarded:
        step = f"rayhpc cluster show {server.name}; rayhpc kube address begins its forward anew"
        return Late(configuration(f"nobody answers at {server.url}", *evidence, next_step=step).fault)
    given = [f"given as {server.name}"] if server.name != server.url else []
    return configuration(
        f"nobody answers at {server.url}",
        *evidence,
        *given,
        next_step="check the address and that the cluster still runs; from outside, open a tunnel: ssh -L",
    )


def _gone(server: Server, *evidence: str, next_step: str) -> RayhpcError:
    return configuration(f"cluster {server.name} is gone, and its jobs with it", *evidence, next_step=next_step)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return str(error) if str(error) != "timed out" else f"no answer within {_ASK_SECONDS:g} s"
    return error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _listens(address: str) -> str:
    """Why a port does not open; empty if it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return _reason(error)
    return ""


def _refusal(server: Server, status: int, text: str) -> RayhpcError:
    evidence = (f"{server.url}: HTTP {status}", *last_lines(text))
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN) and server.token_file is None:
        return configuration(
            f"cluster {server.name} asks for a token, and is none of the registered ones",
            *evidence,
            next_step="ask who runs it for a file with its token that you may read: --token-file FILE",
        )
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return configuration(
            f"cluster {server.name} refuses the token",
            *evidence,
            f"token: {server.token_file}",
            next_step="each run has a token of its own: name this run's file with --token-file",
        )
    if status == http.client.NOT_FOUND and text.startswith("Job "):
        return configuration(
            f"cluster {server.name} has no such job", *evidence, next_step="rayhpc job list --all-users --all-statuses"
        )
    return configuration(
        f"cluster {server.name} gives no answer of Ray's job API",
        *evidence,
        next_step="check that the address is a Ray dashboard's; if so, its job API has failed: start another cluster",
    )


def last_lines(text: str, count: int = 4) -> tuple[str, ...]:
    """The end of a text that is told, in lines that fit on a screen."""
    return tuple(line[:200] for line in text.splitlines() if line.strip())[-count:]
