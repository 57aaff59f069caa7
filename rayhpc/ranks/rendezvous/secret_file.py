"""The file with the secret of a rendezvous: only its user can read it, and it is whole or not there."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from rayhpc import paths
from rayhpc.errors import RayhpcError, configuration
from rayhpc.host import this_host
from rayhpc.ranks.handshake import Endpoint, NotYet
from rayhpc.records import run_directory

# 256 bits in hexadecimal digits.
SECRET_BYTES = 32
_SECRET_LETTERS = 2 * SECRET_BYTES


def read(file: Path) -> str | None:
    """The text of a file that no other user can have read or written; None where there is none; else RayhpcError."""
    try:
        return run_directory.read_private(file)
    except OSError as error:
        raise configuration(
            f"{file} cannot be trusted: {error.strerror}",
            next_step=f"it must be a file of your own that only you can read: chmod 600 {file}",
        ) from error


@contextlib.contextmanager
def written(file: Path, text: str) -> Iterator[None]:
    """A file of mode 0600 while the ranks meet; raises RayhpcError where it cannot be made."""
    try:
        run_directory.make_private(file.parent, exist_ok=True)
        run_directory.write_whole(file, text.encode())
    except OSError as error:
        raise configuration(
            f"{file} cannot be made: {error.strerror}",
            next_step="name another place that all hosts see: --run-dir, RAYHPC_RENDEZVOUS_FILE, or --token-file",
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def token_file(named: str, port: int, environ: Mapping[str, str]) -> Path:
    """The file with the secret for a port: the one that is named, else one in the user's state directory."""
    if named:
        return Path(named).expanduser().absolute()
    try:
        return paths.state_dir(environ) / "rendezvous" / str(port)
    except RuntimeError as error:
        raise configuration(
            f"there is no place for the secret: {error}", next_step="name a file with --token-file"
        ) from error


@contextlib.contextmanager
def secret(file: Path, named: bool) -> Iterator[bytes]:
    """The secret in the file that the user named; if it is not there, or nobody named one, a new one while it lasts."""
    text = read(file) if named else None
    if text is not None:
        yield _checked(text, file)
        return
    made = secrets.token_hex(SECRET_BYTES)
    with written(file, made + "\n"):
        yield made.encode()


def _checked(text: str, file: Path) -> bytes:
    """The secret in a file's text; raises RayhpcError for one that could be guessed."""
    if len(text.strip()) < _SECRET_LETTERS:
        raise configuration(
            f"the secret in {file} is too short: {len(text.strip())} letters, and {_SECRET_LETTERS} are needed",
            next_step=f"make one: (umask 077; openssl rand -hex {SECRET_BYTES} > {file}); or let the head make it",
        )
    return text.strip().encode()


def endpoint(address: tuple[str, int], file: Path) -> Endpoint:
    """Rank 0 at an address, with the secret in a file; raises NotYet while the file is not there."""
    text = read(file)
    if text is None:
        raise NotYet(f"{file} is not there yet")
    return Endpoint((address,), _checked(text, file))


def no_listener(port: int, error: OSError) -> RayhpcError:
    """The error of a port that this host does not give."""
    return configuration(
        f"rank 0 cannot listen at port {port} of {this_host.name()}: {error.strerror}",
        next_step="choose another port, or none: a free one is found",
    )
