"""A launcher gives each process its rank; rank 0 writes its address and a secret into a file that all of them see."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayhpc.errors import configuration
from rayhpc.host import network, this_host
from rayhpc.model import HEAD_RANK
from rayhpc.ranks.comm import Comm, SoloComm
from rayhpc.ranks.handshake import Endpoint, Hello, NotYet, Tell, Wait, gather, join
from rayhpc.ranks.rendezvous import inputs, secret_file
from rayhpc.ranks.rendezvous.inputs import LAUNCHER_STEP, QUIET_SECONDS
from rayhpc.schedulers import slurm


@dataclass(frozen=True)
class RankIdentity:
    """What a launcher says of this process without MPI.

    file: where rank 0 writes how the others reach it; hosts: all that ranks were started on, where that is known.
    """

    rank: int
    size: int
    file: Path
    hosts: tuple[str, ...] = ()


def slurm_identity(run_dir: str, environ: Mapping[str, str]) -> RankIdentity:
    """The identity of a process that srun has started; raises RayhpcError for another."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_ID")
    step = "srun -N4 python -m rayhpc.start --rendezvous=slurm DRIVER; elsewhere without MPI: --rendezvous=file"
    rank, size, job, number = inputs.numbers(environ, names, "slurm", step)
    identity = _identity(rank, size, Path(run_dir).expanduser().absolute() / f".rendezvous-{job}.{number}")
    return replace(identity, hosts=tuple(slurm.expanded(environ.get("SLURM_STEP_NODELIST", ""))))


def file_identity(environ: Mapping[str, str]) -> RankIdentity:
    """The identity that the user's own launcher gives; raises RayhpcError where it does not."""
    step = "set RAYHPC_RANK and RAYHPC_SIZE for each process, and RAYHPC_RENDEZVOUS_FILE, which all of them see"
    rank, size = inputs.numbers(environ, ("RAYHPC_RANK", "RAYHPC_SIZE"), "file", step)
    file = environ.get("RAYHPC_RENDEZVOUS_FILE", "")
    if not file:
        raise configuration("--rendezvous=file, but RAYHPC_RENDEZVOUS_FILE names no file", next_step=step)
    return _identity(rank, size, Path(file).expanduser().absolute())


def _identity(rank: int, size: int, file: Path) -> RankIdentity:
    if not rank < size:
        raise configuration(
            f"there is no rank {rank} among {size}", next_step="number the processes from 0 to one less than their size"
        )
    inputs.check_size(size)
    return RankIdentity(rank, size, file)


def meet(identity: RankIdentity, interface: str, patience: Callable[[int], float], tell: Tell) -> Comm:
    """Meet the other ranks; raises RayhpcError where they do not find each other."""
    if identity.size == 1:
        return SoloComm()
    place = f"rank {identity.rank} on {this_host.name()}"
    wait = Wait(patience(identity.size), tell, place, LAUNCHER_STEP, QUIET_SECONDS, identity.hosts)
    if identity.rank != HEAD_RANK:
        return join(lambda: _read_endpoint(identity.file), Hello(identity.rank, place), wait)[0]
    listener = network.server()
    secret = secrets.token_hex(secret_file.SECRET_BYTES)
    addresses = [(address, listener.getsockname()[1]) for address in inputs.addresses(interface)]
    with secret_file.written(identity.file, json.dumps({"addresses": addresses, "secret": secret})):
        return gather(listener, secret.encode(), identity.size, None, wait)


def _read_endpoint(file: Path) -> Endpoint:
    """What rank 0 has written; raises NotYet before."""
    text = secret_file.read(file)
    if text is None:
        raise NotYet(f"{file} is not there yet")
    content: dict[str, Any] = json.loads(text)
    return Endpoint(tuple((name, int(port)) for name, port in content["addresses"]), content["secret"].encode())
