"""Where things lie: the files of a run directory and the private directory of a rank. Names only."""

from __future__ import annotations

from pathlib import Path

SPEC = "cluster.json"
EVENTS = "events.jsonl"
OUTCOME = "outcome.json"
LOGS = "ray-logs.tar.gz"
LATEST = "latest"

# AF_UNIX paths end at 107 bytes; Ray appends "/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store".
AF_UNIX_LIMIT = 107
_RAY_SUFFIX = len("/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1")
TEMP_DIR_LIMIT = AF_UNIX_LIMIT - _RAY_SUFFIX
_PRIVATE = "/rh-01234567-12345/r"
TEMP_BASE_LIMIT = TEMP_DIR_LIMIT - len(_PRIVATE)


def private_dir(base: str, run_id: str, rank: int) -> str:
    """The directory of one rank for Ray's session and the token: mode 0700, gone at the end of the run."""
    return f"{base.rstrip('/')}/rh-{run_id[-8:]}-{rank}"


def ray_temp_dir(private: str) -> str:
    """Ray's --temp-dir: below the private directory, since Ray makes its own readable for all."""
    return f"{private}/r"


def token_file(private: str) -> str:
    """The token of the run, mode 0600."""
    return f"{private}/token"


def rank_log(run_dir: str, rank: int) -> Path:
    """What `ray start` of a rank prints."""
    return Path(run_dir, f"rank-{rank}.log")
