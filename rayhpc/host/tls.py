"""A run's certificate, made with the openssl command: who has none cannot talk to the cluster. The only owner of it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from rayhpc.errors import configuration
from rayhpc.model import Certificate

# Longer than any job; and earlier than now, since a host whose clock is behind would find it not yet valid.
_DAYS = 30
_EARLIER_SECONDS = 86400.0
_OPENSSL_SECONDS = 30.0
# Within a host Ray's processes talk over the loopback.
_LOOPBACK = ("127.0.0.1", "::1")
# `openssl ca` alone takes a beginning in all its releases; it wants a database, here an empty file.
_CONFIGURATION = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = rayhpc
[ca]
default_ca = run
[run]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = policy
x509_extensions = extensions
[policy]
commonName = supplied
[extensions]
subjectAltName = @names
[names]
DNS.1 = localhost
"""


def certificate(addresses: Iterable[str]) -> Certificate:
    """A fresh certificate for these addresses and the loopback; raises RayhpcError where openssl cannot make it."""
    with tempfile.TemporaryDirectory(prefix=".rh-") as scratch:
        directory = Path(scratch)  # mode 0700
        (directory / "index").touch()
        (directory / "configuration").write_text(_configuration(addresses))
        _openssl(
            directory,
            *("req", "-config", "configuration", "-new", "-nodes", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", "key", "-out", "request"),
        )
        now = time.time()
        _openssl(
            directory,
            *("ca", "-config", "configuration", "-batch", "-selfsign", "-notext", "-keyfile", "key", "-in", "request"),
            *("-startdate", _stamp(now - _EARLIER_SECONDS), "-enddate", _stamp(now + _DAYS * 86400), "-out", "chain"),
        )
        return Certificate((directory / "chain").read_text(), (directory / "key").read_text())


def _configuration(addresses: Iterable[str]) -> str:
    names = sorted({*_LOOPBACK, *addresses})
    return _CONFIGURATION + "".join(f"IP.{place} = {address}\n" for place, address in enumerate(names, 1))


def _stamp(at: float) -> str:
    """Unix seconds as openssl reads them."""
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(at))


def _openssl(directory: Path, *arguments: str) -> None:
    """Run openssl in a directory; raises RayhpcError with its last lines."""
    try:
        done = subprocess.run(
            ["openssl", *arguments], cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_OPENSSL_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise configuration(
            "--tls: the openssl command cannot be run",
            str(error),
            next_step="load the module or install the package that brings openssl, or do without --tls",
        ) from error
    if done.returncode:
        raise configuration(
            f"--tls: openssl {arguments[0]} has ended with {done.returncode}",
            *done.stderr.strip().splitlines()[-5:],
            next_step="check the openssl that is first on PATH: `openssl version`",
        )
