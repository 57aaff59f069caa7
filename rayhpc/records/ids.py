"""Names for what is made once: runs and allocations."""

from __future__ import annotations

import secrets
import time


def new_id(now: float) -> str:
    """Sorts by time and is unique: 20261121-094408-1a2b3c4d."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(4)}"
