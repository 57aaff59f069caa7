"""How ranks meet without MPI: over TCP, with a secret in a file that only their user can read."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.host import network, this_host
from rayhpc.model import HEAD_RANK
from rayhpc.options import Options, Terminals
from rayhpc.ranks.comm import Comm, Solo
from rayhpc.ranks.handshake import Door, Hello, NotYet, Wait, gather, join
from rayhpc.ranks.tcp import Star
from rayhpc.records import run_directory

# 256 bits in hexadecimal digits.
_SECRET_BYTES = 32
_SECRET_LETTERS = 2 * _SECRET_BYTES
# Rank 0 has a connection to each rank, and waits by select(), which knows descriptors up to 1023.
_LARGEST = 512
# A launcher's ranks come together: of less than this nobody needs to hear.
_QUIET_SECONDS = 5.0
_LAUNCHER = "look at the launcher's output for a rank that ended, or hangs at its start"

Tell = Callable[[str], None]
Patience = Callable[[int], float]


@dataclass(frozen=True)
class Seat:
    """What a launcher says of this process without MPI. file: where rank 0 tells the others how to reach it."""

    rank: int
    size: int
    file: Path


def meet(options: Options, environ: Mapping[str, str], patience: Patience, tell: Tell) -> Comm:
    """Meet the other ranks as --rendezvous says, without MPI; raises RayhpcError where they do not find each other.

    patience: seconds to wait for so many ranks; tell: prints a line.
    """
    if options.rendezvous == "slurm":
        return _by_file(slurm_seat(options.run_dir, environ), options.interface, patience, tell)
    if options.rendezvous == "file":
        return _by_file(file_seat(environ), options.interface, patience, tell)
    return _by_address(environ, patience, tell)


# ---------------------------------------------------------------- a launcher that tells each process its rank


def slurm_seat(run_dir: str, environ: Mapping[str, str]) -> Seat:
    """The seat of a process that srun has started; raises RayhpcError for another."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_ID")
    step = "srun -N4 python -m rayhpc.start --rendezvous=slurm DRIVER; elsewhere without MPI: --rendezvous=file"
    rank, size, job, number = _numbers(environ, names, "slurm", step)
    return _seat(rank, size, Path(run_dir).expanduser().absolute() / f".rendezvous-{job}.{number}")


def file_seat(environ: Mapping[str, str]) -> Seat:
    """The seat that the user's own launcher gives; raises RayhpcError where it does not."""
    step = "set RAYHPC_RANK and RAYHPC_SIZE for each process, and RAYHPC_RENDEZVOUS_FILE, which all of them see"
    rank, size = _numbers(environ, ("RAYHPC_RANK", "RAYHPC_SIZE"), "file", step)
    file = environ.get("RAYHPC_RENDEZVOUS_FILE", "")
    if not file:
        raise configuration("--rendezvous=file, but RAYHPC_RENDEZVOUS_FILE names no file", next_step=step)
    return _seat(rank, size, Path(file).expanduser().absolute())


def _numbers(environ: Mapping[str, str], names: tuple[str, ...], way: str, step: str) -> list[int]:
    """The values of variables that must be numbers; raises RayhpcError naming those that are not."""
    values = [environ.get(name, "") for name in names]
    wrong = [name for name, value in zip(names, values, strict=True) if not (value.isascii() and value.isdigit())]
    if wrong:
        lines = [f"{name}={environ[name]}" if name in environ else f"{name} is not set" for name in wrong]
        raise configuration(f"--rendezvous={way}, but this process has not been told its rank", *lines, next_step=step)
    return [int(value) for value in values]


def _seat(rank: int, size: int, file: Path) -> Seat:
    if not rank < size:
        raise configuration(
            f"there is no rank {rank} among {size}", next_step="number the processes from 0 to one less than their size"
        )
    _check_size(size)
    return Seat(rank, size, file)


def _check_size(size: int) -> None:
    if size > _LARGEST:
        raise configuration(
            f"{size} ranks are too many without MPI: rank 0 has a connection to each, {_LARGEST} at most",
            next_step="start them by mpirun, or by srun --mpi=pmi2; or fewer of them, one for each host",
        )


def _by_file(seat: Seat, interface: str, patience: Patience, tell: Tell) -> Comm:
    if seat.size == 1:
        return Solo()
    place = f"rank {seat.rank} on {this_host.name()}"
    wait = Wait(patience(seat.size), tell, place, _LAUNCHER, _QUIET_SECONDS)
    if seat.rank != HEAD_RANK:
        return join(lambda: _door(seat.file), Hello(seat.rank, place), wait)[0]
    listener = network.server()
    secret = secrets.token_hex(_SECRET_BYTES)
    addresses = [(address, listener.getsockname()[1]) for address in _addresses(interface)]
    with _kept(seat.file, json.dumps({"addresses": addresses, "secret": secret})):
        return gather(listener, secret.encode(), seat.size, None, wait)


def _addresses(interface: str) -> list[str]:
    """Where other hosts may reach this one; on a host without a network, itself alone."""
    # A wrong --interface is told once all can hear it.
    found = this_host.interfaces(interface) or this_host.interfaces()
    return [entry.address for entry in found] or ["127.0.0.1"]


def _door(file: Path) -> Door:
    """What rank 0 has written; raises NotYet before."""
    note = _private(file)
    if note is None:
        raise NotYet(f"{file} is not there yet")
    content: dict[str, Any] = json.loads(note)
    return Door(tuple((name, int(port)) for name, port in content["addresses"]), content["secret"].encode())


def _private(file: Path) -> str | None:
    """A file that nobody else can have read or written; None where there is none; raises RayhpcError for another."""
    try:
        return run_directory.read_private(file)
    except OSError as error:
        raise configuration(
            f"{file} cannot be trusted: {error.strerror}",
            next_step=f"it must be a file of your own that only you can read: chmod 600 {file}",
        ) from error


@contextlib.contextmanager
def _kept(file: Path, text: str) -> Iterator[None]:
    """A file of mode 0600 while the ranks meet, whole or not there; raises RayhpcError where it cannot be made."""
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


# ---------------------------------------------------------------- processes that know an address: the first is rank 0


def _by_address(environ: Mapping[str, str], patience: Patience, tell: Tell) -> Comm:
    """Rank 0 is who can listen at RAYHPC_HEAD; the others come to it."""
    step = "set RAYHPC_SIZE to the number of processes, and RAYHPC_HEAD=HOST:PORT on all of them"
    (size,) = _numbers(environ, ("RAYHPC_SIZE",), "tcp", step)
    head = endpoint(environ.get("RAYHPC_HEAD", ""), 0)
    _check_size(size)
    file = token_file(environ.get("RAYHPC_TOKEN_FILE", ""), head[1], environ)
    wait = Wait(patience(size), tell, this_host.name(), _LAUNCHER, _QUIET_SECONDS)
    if network.is_here(head[0]):
        try:
            listener = network.server(head[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _no_listener(head[1], error) from error
        else:
            with _secret(file, bool(environ.get("RAYHPC_TOKEN_FILE"))) as secret:
                return gather(listener, secret, size, None, wait) if size > 1 else Solo()
    return join(lambda: _named_door(head, file), Hello(None, this_host.name()), wait)[0]


def endpoint(text: str, port: int) -> tuple[str, int]:
    """Host and port of 'HOST:PORT', or of 'HOST' with the port given beside it; raises RayhpcError without a port."""
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, number = text, str(port or "")
    name = name.removeprefix("[").removesuffix("]")
    if not (name and number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        what = f"{text!r} names no host and port" if text else "the head's host and port are not said"
        step = "HOST:PORT, as `rayhpc node head` prints it: --head, or RAYHPC_HEAD"
        raise RayhpcError(Fault(what, ExitCode.USAGE, next_step=step))
    return name, int(number)


def token_file(named: str, port: int, environ: Mapping[str, str]) -> Path:
    """Where the secret of a meeting at a port lies, if no other place was named: in the user's state directory."""
    if named:
        return Path(named).expanduser().absolute()
    try:
        return paths.state_dir(environ) / "rendezvous" / str(port)
    except RuntimeError as error:
        raise configuration(
            f"there is no place for the secret: {error}", next_step="name a file with --token-file"
        ) from error


@contextlib.contextmanager
def _secret(file: Path, named: bool) -> Iterator[bytes]:
    """The secret in the file that the user named; if it is not there, or nobody named one, a new one while it lasts."""
    text = _private(file) if named else None
    if text is not None:
        yield _checked(text, file)
        return
    secret = secrets.token_hex(_SECRET_BYTES)
    with _kept(file, secret + "\n"):
        yield secret.encode()


def _checked(text: str, file: Path) -> bytes:
    """The secret in a file's text; raises RayhpcError for one that could be guessed."""
    if len(text.strip()) < _SECRET_LETTERS:
        raise configuration(
            f"the secret in {file} is too short: {len(text.strip())} letters, and {_SECRET_LETTERS} are needed",
            next_step=f"make one: (umask 077; openssl rand -hex {_SECRET_BYTES} > {file}); or let the head make it",
        )
    return text.strip().encode()


def _named_door(address: tuple[str, int], file: Path) -> Door:
    text = _private(file)
    if text is None:
        raise NotYet(f"{file} is not there yet")
    return Door((address,), _checked(text, file))


def _no_listener(port: int, error: OSError) -> RayhpcError:
    return configuration(
        f"rank 0 cannot listen at port {port} of {this_host.name()}: {error.strerror}",
        next_step="choose another port, or none: a free one is found",
    )


# ---------------------------------------------------------------- two terminals


def lead_terminals(
    terminals: Terminals, options: Options, seconds: float, environ: Mapping[str, str], tell: Tell
) -> Comm:
    """`rayhpc node head`: wait for the workers, who get the options; raises RayhpcError when the time is over."""
    if terminals.nodes == 1:
        return Solo()
    _check_size(terminals.nodes)
    try:
        listener = network.server(terminals.port)
    except OSError as error:
        raise _no_listener(terminals.port, error) from error
    port = listener.getsockname()[1]
    file = token_file(terminals.token_file, port, environ)
    command = f"rayhpc node worker --head {_shown(_addresses(options.interface)[0], port)}"
    if file != token_file("", port, {name: environ[name] for name in ("HOME",) if name in environ}):
        command += f" --token-file {file}"
    others = "the other terminal" if terminals.nodes == 2 else f"{terminals.nodes - 1} other terminals"
    wait = Wait(seconds, tell, f"rank 0 on {this_host.name()}", f"in {others}: {command}")
    with _secret(file, bool(terminals.token_file)) as secret:
        return gather(listener, secret, terminals.nodes, options, wait)


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def join_terminals(
    terminals: Terminals, seconds: float, environ: Mapping[str, str], tell: Tell
) -> tuple[Star, Options]:
    """`rayhpc node worker`: come to the head; with its options; raises RayhpcError when the time is over."""
    head = endpoint(terminals.head, terminals.port)
    file = token_file(terminals.token_file, head[1], environ)
    command = f"rayhpc node head --port {head[1]}" + (f" --token-file {file}" if terminals.token_file else "")
    wait = Wait(seconds, tell, this_host.name(), f"on {head[0]}: {command} -- DRIVER")
    return join(lambda: _named_door(head, file), Hello(None, this_host.name()), wait)
