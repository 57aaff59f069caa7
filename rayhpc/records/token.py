"""The token that protects a run, and the files by which a process that may read them enters the cluster."""

from __future__ import annotations

import secrets
from pathlib import Path

from rayhpc import paths
from rayhpc.model import Certificate
from rayhpc.records.run_directory import write_secret

_BYTES = 32


def new_token() -> str:
    """A token that nobody guesses, as text."""
    return secrets.token_hex(_BYTES)


def write_authentication(private: str, token: str, certificate: Certificate | None) -> None:
    """Write the files that let a process into a cluster into a directory; raises OSError."""
    content = {paths.token_file(private): token}
    if certificate is not None:
        content[paths.certificate_file(private)] = certificate.chain
        content[paths.key_file(private)] = certificate.key
    for file, secret in content.items():
        write_secret(Path(file), secret)
