"""Where things lie: a run's files, a rank's private directory, the user's state. Names only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SPEC = "cluster.json"
EVENTS = "events.jsonl"
OUTCOME = "outcome.json"
ROOM = ".outcome-room"
LOGS = "ray-logs.tar.gz"
LATEST = "latest"
DEADLINE = "deadline"
METRICS = "metrics"
LEAVE = "leave"
# What a user finds in the directory of a run, by patterns.
RUN_FILES = {
    SPEC: "what the ranks agreed on",
    EVENTS: "what happened when, a line each",
    OUTCOME: "how it ended",
    LOGS: "Ray's own logs, a folder a node",
    "rank-*.log": "what `ray start` printed on a rank",
    DEADLINE: "the end of the job in Unix seconds, as it is now",
    "timeline.png": "what each rank did when",
    "ray-timeline-*.json": "what `ray timeline` wrote",
    METRICS: "what Prometheus has collected",
    "metrics.png": "what each host did when",
}

# AF_UNIX paths end at 107 bytes. To its --temp-dir Ray appends a session and a socket's name.
AF_UNIX_LIMIT = 107
_SESSION = "/session_2026-01-31_23-59-59_123456_1234567/sockets/"
_SOCKET = "plasma_store.1"
_DASHBOARD_SOCKET = "dash_TaskEventsHead"
_PRIVATE = "/rh-01234567-12345/r"


def temp_base_limit(dashboard: bool) -> int:
    """Bytes that the directory for the private directories may have: the dashboard's sockets have longer names."""
    return AF_UNIX_LIMIT - len(_PRIVATE + _SESSION + (_DASHBOARD_SOCKET if dashboard else _SOCKET))


def private_dir(base: str, run_id: str, rank: int) -> str:
    """The directory of one rank for Ray's session and the token: mode 0700, gone at the end of the run."""
    return f"{base.rstrip('/')}/rh-{run_id[-8:]}-{rank}"


def ray_temp_dir(private: str) -> str:
    """Ray's --temp-dir: below the private directory, since Ray makes its own readable for all."""
    return f"{private}/r"


def token_file(private: str) -> str:
    """The token of the run, mode 0600."""
    return f"{private}/token"


def node_table(private: str) -> str:
    """The socket at which the head's `ray start` tells the node table."""
    return f"{private}/nodes"


def certificate_file(private: str) -> str:
    """The certificate of the run, with --tls."""
    return f"{private}/tls.crt"


def key_file(private: str) -> str:
    """The certificate's key, mode 0600."""
    return f"{private}/tls.key"


def state_dir(environ: Mapping[str, str]) -> Path:
    """The user's directory for what login and compute hosts share; raises RuntimeError without a home."""
    own, shared = environ.get("RAYHPC_STATE_DIR", ""), environ.get("XDG_STATE_HOME", "")
    if own:
        return Path(own).expanduser().absolute()
    return (Path(shared) if shared.startswith("/") else Path.home() / ".local/state") / "rayhpc"


def rank_log(run_dir: str, rank: int) -> Path:
    """What `ray start` of a rank prints."""
    return Path(run_dir, f"rank-{rank}.log")


def deadline_file(run_dir: str) -> str:
    """The end of the job in Unix seconds, for drivers: it is there where the end is known, and follows it."""
    return f"{run_dir}/{DEADLINE}"
