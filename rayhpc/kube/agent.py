"""`python -m rayhpc.kube.agent ID`: on the login side, what rank 0 is for a run on a supercomputer.

It keeps a port of this host open to the cluster's dashboard, says in the registry that the cluster is there, deletes it
when `rayhpc cluster stop` asks for that, and takes the entry along when the cluster is gone.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from rayhpc import paths
from rayhpc.errors import RayhpcError
from rayhpc.kube import access
from rayhpc.kube.access import DASHBOARD, PLACE
from rayhpc.kube.forward import Forward
from rayhpc.kube.kubectl import Kubectl, NotFound
from rayhpc.model import ClusterEntry
from rayhpc.records import registry

_ENTRY_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_ASK_SECONDS = 10.0


class _Ended(Exception):
    """A signal."""


def main(entry_id: str) -> int:
    """Keep an entry until its cluster is gone; the exit code."""
    signal.signal(signal.SIGTERM, _end)
    place = _place(registry.directory(entry_id) / PLACE)
    entry = next((each for each in registry.every() if each.id == entry_id), None)
    if place is None or entry is None:
        _tell(f"there is no entry {entry_id}")
        return 1
    kubectl = Kubectl(place["context"], place["namespace"])
    service = entry.address.partition(".")[0]
    forward = Forward(kubectl, service, [(int(place["port"]), DASHBOARD)])
    try:
        cause = _keep(entry, kubectl, forward)
    except (_Ended, FileNotFoundError):  # the entry was forgotten: `cluster forget`
        return 0
    finally:
        forward.close()
    outcome = {"cause": cause, "code": 0}
    Path(entry.run_dir, paths.OUTCOME).write_text(json.dumps(outcome))
    registry.forget(entry)
    return 0


def _place(file: Path) -> dict[str, str] | None:
    """What the launcher wrote last; None if nothing came in time."""
    end = time.monotonic() + _ENTRY_SECONDS
    while time.monotonic() < end:
        try:
            found: dict[str, str] = json.loads(file.read_text())
            return found
        except (OSError, ValueError):
            time.sleep(_LOOK_SECONDS / 5)
    return None


def _keep(entry: ClusterEntry, kubectl: Kubectl, forward: Forward) -> str:
    """Why the cluster is gone, once it is."""
    asked, told = time.monotonic(), ""
    registry.beat(entry)
    while True:
        time.sleep(_LOOK_SECONDS)
        forward.check(_tell)
        stops = registry.stops(entry)
        if not stops and time.monotonic() - asked < _ASK_SECONDS:
            continue
        asked = time.monotonic()
        try:
            found = kubectl.json("get", "raycluster", entry.batch_job_id)
            if access.entry_id(found) != entry.id:
                return "another cluster has its name now"
            if stops:
                _delete(kubectl, found)
                return f"deleted, as {stops[0]} asked"
            if (fresh := access.sized(entry, found)) != entry:
                entry = fresh
                registry.amend(entry)
            registry.beat(entry)
            told = ""
        except NotFound:
            return "the cluster was deleted"
        except RayhpcError as error:  # the network comes back, or the heartbeat grows old
            if error.fault.what != told:
                _tell(error.fault.text(ends=False))
            told = error.fault.what


def _delete(kubectl: Kubectl, cluster: access.Object) -> None:
    """Delete the cluster; one of a job with its job, for which the operator would make another cluster."""
    owners = [each for each in cluster["metadata"].get("ownerReferences", ()) if each["kind"] == "RayJob"]
    kind, name = ("rayjob", owners[0]["name"]) if owners else ("raycluster", cluster["metadata"]["name"])
    kubectl.run("delete", kind, name, "--wait=false", "--ignore-not-found")


def _end(_number: int, _frame: FrameType | None) -> None:
    raise _Ended


def _tell(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
