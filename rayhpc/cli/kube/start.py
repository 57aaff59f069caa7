"""`rayhpc kube …`: Ray clusters on Kubernetes, where the KubeRay operator runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from rayhpc.cli.base import JSON_OPTION, Told, WithCommand, json_text, print_table, printable, tell
from rayhpc.clusters.attach import become
from rayhpc.errors import counted
from rayhpc.jobs import address_file, ray_api, ray_client
from rayhpc.jobs.address_file import Address
from rayhpc.jobs.find import Found
from rayhpc.jobs.follow import follow_job
from rayhpc.jobs.ray_client import RayJobSubmission
from rayhpc.jobs.request import command_line
from rayhpc.kube import access, launch, manifest, objects, parse
from rayhpc.kube.kubectl import Kubectl, check_access
from rayhpc.kube.options import JobOptions, refused
from rayhpc.model import ClusterEntry
from rayhpc.records import registry
from rayhpc.user_input.secret_names import RULE

_INTERRUPTED = 130
_ADDRESS_FILE = "~/.ray_address"
F = TypeVar("F", bound=Callable[..., Any])
_TIMEOUT = click.option("--timeout", default=600.0, type=click.FloatRange(0), metavar="S", show_default=True,
                        help="Seconds until the pods must be there.")  # fmt: skip
_NAMES = click.argument("names", nargs=-1)
_NAME = click.argument("name")
_PLACE = (
    click.option("-n", "--namespace", default="", help="Of Kubernetes.  [default: kubectl's]"),
    click.option("--context", default="", help="Of kubectl's configuration.  [default: its current one]"),
)
_many = functools.partial(click.option, multiple=True)
_CLUSTER = (
    click.option("--name", default=lambda: f"ray-{manifest.owner_label(registry.account()).lower()}", metavar="NAME",
                 help="[default: ray- and your account]"),
    click.option("--clusters", default=0, type=click.IntRange(0), metavar="N", help="Several: NAME-0, NAME-1, ..."),
    click.option("--image", default="", help="With Ray in it, as rayproject/ray:2.60.0-py312-gpu."),
    click.option("--ray-version", default="", metavar="X.Y.Z", help="In the image.  [default: by its tag]"),
    click.option("--workers", default="", metavar="N|MIN:MAX", help="Number of worker pods.  [default: 1]"),
    click.option("--cpus", default=2.0, show_default=True, help="CPUs of a worker."),
    click.option("--memory", default="8G", show_default=True, metavar="SIZE", help="Memory of a worker."),
    click.option("--gpus", default=0, help="GPUs of a worker; needs --accelerator."),
    click.option("--accelerator", default="", metavar="KEY=VALUE", help="Label of the nodes for the workers."),
    _many("--group", metavar="NAME=...", help="Another kind: gpu=workers=0:4,gpus=1,accelerator=KEY=VALUE,memory=32G."),
    click.option("--head-cpus", default=2.0, show_default=True, help="CPUs of the head."),
    click.option("--head-memory", default="8G", show_default=True, metavar="SIZE", help="Memory of the head."),
    click.option("--head-no-tasks", is_flag=True, help="Run no tasks on the head."),
    click.option("--autoscale", is_flag=True, help="Let Ray add and remove workers between MIN and MAX."),
    click.option("--service-account", default="", metavar="NAME", help="Of the pods."),
    click.option("--image-pull-secret", default="", metavar="NAME", help="For a private registry."),
    _many("--pvc", metavar="NAME:PATH", help="Mount a volume claim in all pods."),
    _many("--env", metavar="NAME=VALUE", help="A variable in all pods; it is no secret there."),
    _many("--not-secret", metavar="NAME", help=f"For --env, though its name is as {RULE}."),
    _many("--env-from", metavar="SECRET", help="All keys of a Kubernetes secret as variables."),
    click.option("--mlflow", default="", metavar="URL", help="Sets MLFLOW_TRACKING_URI."),
    click.option("--queue", default="", metavar="NAME", help="Wait in this queue of Kueue."),
    click.option("--user-id", default=None, type=int, metavar="UID",
                 help="Account in the image.  [default: 1000 for rayproject/ray, else the image's]"),
    _many("--set", metavar="PATH=VALUE", help="Any other field: spec.workerGroupSpecs.0.idleTimeoutSeconds=300."),
    click.option("-f", "--file", "base", default="", metavar="FILE", help="Start from the site's own document."),
    *_PLACE,
)  # fmt: skip
_JOB = (
    click.option("--ttl", default=60, type=click.IntRange(20), metavar="S", show_default=True,
                 help="Seconds that a job's cluster stays after the end: the last lines of the log are read then."),
    click.option("--time", default="24:00:00", metavar="TIME", show_default=True, help="The job ends after that."),
)  # fmt: skip


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options at once."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def _kubectl(said: dict[str, Any]) -> Kubectl:
    return Kubectl(said["context"], said["namespace"])


@click.group("kube", cls=Told, context_settings={"max_content_width": 100})
def kube() -> None:
    """Ray clusters on Kubernetes, through kubectl and the KubeRay operator. Once up: rayhpc cluster, rayhpc job."""


@kube.command("manifest", cls=WithCommand)
@_with(*_CLUSTER, *_JOB)
def print_manifest(words: tuple[str, ...], ttl: int, time: str, **said: Any) -> None:
    """Print what `launch` would apply; with a COMMAND, what `job` would."""
    wanted = JobOptions(_line(words), ttl, parse.deadline(time)) if words else None
    click.echo(manifest.text(parse.documents(said, registry.account(), wanted)), nl=False)


@kube.command("launch")
@_with(*_CLUSTER)
@click.option("--wait/--no-wait", default=True, help="Until the clusters are ready and registered, the default.")
@_TIMEOUT
@click.option("--output", default="", metavar="FILE", help="Also keep the addresses in FILE, as ~/.ray_address.")
def launch_clusters(wait: bool, timeout: float, output: str, **said: Any) -> None:
    """Start clusters, and show what each pod does and why it waits."""
    documents = parse.documents(said, registry.account())
    kubectl = _kubectl(said)
    check_access(kubectl)
    launch.apply(kubectl, documents)
    names = [document["metadata"]["name"] for document in documents]
    if not wait:
        tell(f"applied: {', '.join(names)}\n  rayhpc kube show {names[0]}\n  rayhpc kube address {' '.join(names)}")
        return
    ready = _wait(kubectl, names, "RayCluster", timeout)
    _tell_entries([access.register(kubectl, ready[name]) for name in names], output)


def _wait(kubectl: Kubectl, names: Sequence[str], kind: str, timeout: float) -> dict[str, Any]:
    from rayhpc.cli.kube_board import Board

    with Board() as board:
        return launch.wait(kubectl, names, kind, timeout, board.show)


def _tell_entries(entries: Sequence[ClusterEntry], output: str) -> None:
    for entry in entries:
        click.echo(f"{entry.batch_job_id}\t{entry.dashboard}")
    if output:
        file = Path(output).expanduser()
        number = address_file.save(file, [Address(entry.dashboard, entry.batch_job_id) for entry in entries], ())
        tell(f"{number} address{'' if number == 1 else 'es'} in {file}")
    tell(f"  rayhpc job submit --cluster {entries[-1].batch_job_id} -- python train.py\n  rayhpc cluster list")


@kube.command("address")
@_NAMES
@_with(*_PLACE)
@click.option("--output", default="", metavar="FILE", help="Also keep the addresses in FILE, as ~/.ray_address.")
def address(names: tuple[str, ...], output: str, **said: Any) -> None:
    """Register clusters that are up, and print their addresses; without a NAME all of mine."""
    kubectl = _kubectl(said)
    found = [kubectl.json("get", "raycluster", name) for name in names] or objects.mine(kubectl, registry.account())
    ready = [each for each in found if objects.state(each) == "ready" and each["kind"] == "RayCluster"]
    if not ready:
        evidence = ", ".join(f"{objects.name(each)}: {objects.state(each)}" for each in found) or "there is none"
        raise refused("no cluster is ready", evidence, "rayhpc kube show NAME")
    _tell_entries([access.register(kubectl, each) for each in ready], output)


@kube.command("list")
@click.option("--all-users", is_flag=True, help="Also those of others.")
@JSON_OPTION
@_with(*_PLACE)
def list_objects(all_users: bool, as_json: bool, **said: Any) -> None:
    """My clusters and jobs."""
    found = objects.mine(_kubectl(said), "" if all_users else registry.account())
    if as_json:
        click.echo(json_text([objects.fields(each) for each in found]))
    else:
        _print(found)


def _print(found: Sequence[dict[str, Any]]) -> None:
    rows = [objects.fields(each) for each in found]
    columns = ("name", "kind", "state", "workers", "cpus", "gpus", "user", "since", "image")
    cells = [[printable(row[column]) for column in columns] for row in rows]
    print_table([column.upper() for column in columns], cells)


@kube.command("show")
@_NAME
@JSON_OPTION
@_with(*_PLACE)
def show(name: str, as_json: bool, **said: Any) -> None:
    """A cluster, its pods, and why each waits."""
    kubectl = _kubectl(said)
    found = objects.cluster(kubectl, name)
    view = launch.look(kubectl, {objects.name(found): found}, {objects.name(found): found}, "RayCluster", 60.0)
    if as_json:
        pods = [dataclasses.asdict(pod) for pod in view.pods]
        faults = [dataclasses.asdict(fault) for fault in view.faults]
        click.echo(json_text({**objects.fields(found), "pods": pods, "faults": faults}))
        return
    _print([found])
    click.echo()
    print_table(("POD", "GROUP", "STATE", "READY"), [(p.name, p.group, p.phase, str(p.ready)) for p in view.pods])
    for fault in view.faults:
        tell(fault.text())


@kube.command("scale")
@_NAME
@click.argument("number", metavar="[GROUP=]NUMBER")
@_with(*_PLACE)
def scale(name: str, number: str, **said: Any) -> None:
    """Change the number of workers."""
    group, _, count = number.rpartition("=")
    if not count.isdigit():
        raise refused("the number of workers is none", repr(count), "rayhpc kube scale NAME GROUP=4")
    kubectl = _kubectl(said)
    groups = kubectl.json("get", "raycluster", name)["spec"]["workerGroupSpecs"]
    change = json.dumps(objects.scaling(groups, group, int(count)))
    kubectl.run("patch", "raycluster", name, "--type=json", "-p", change)
    tell(f"{name}: {counted(int(count), 'worker')} wanted\n  rayhpc kube show {name}")


@kube.command("logs")
@_NAME
@click.option("--pod", default="", help="One of its pods.  [default: the head]")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until Ctrl-C.")
@_with(*_PLACE)
def logs(name: str, pod: str, follows: bool, **said: Any) -> None:
    """What Ray writes in a pod; of a job: rayhpc job logs."""
    kubectl = _kubectl(said)
    found = objects.name(objects.cluster(kubectl, name))
    which = [pod] if pod else ["-l", f"ray.io/cluster={found},ray.io/node-type=head", "--tail=-1"]
    become(kubectl.argv("logs", *which, "--all-containers", *(["-f"] if follows else [])), os.environ)


@kube.command("job", cls=WithCommand)
@_with(*_CLUSTER, *_JOB)
@click.option("--working-dir", default=".", metavar="DIR", show_default=True, help="Sent along, and where it starts.")
@_TIMEOUT
def run_job(words: tuple[str, ...], ttl: int, time: str, working_dir: str, timeout: float, **said: Any) -> None:
    """Run COMMAND on a cluster that is made for it, and end with its code. Ctrl-C detaches. A .py gets python."""
    if not words or said["clusters"]:
        raise refused("a job is one command", "no COMMAND, or --clusters", "rayhpc kube job --image IMAGE -- train.py")
    command = _line(words)
    name = f"{said['name']}-{uuid.uuid4().hex[:5]}"
    wanted = JobOptions(command, ttl, parse.deadline(time))
    (document,) = parse.documents({**said, "name": name}, registry.account(), wanted)
    kubectl = _kubectl(said)
    check_access(kubectl)
    launch.apply(kubectl, [document])
    tell(f"job {name}: its cluster starts")
    entry = access.register(kubectl, _wait(kubectl, [name], "RayJob", timeout)[name])
    sys.exit(_follow(_submit(kubectl, entry, name, command, Path(working_dir).resolve())))


def _line(words: Sequence[str]) -> str:
    return command_line([*(["python"] if words[0].endswith(".py") else []), *words])


def _submit(kubectl: Kubectl, entry: ClusterEntry, name: str, command: str, directory: Path) -> Found:
    server = access.server(entry)
    environment = {"working_dir": str(directory)}
    shown = {ray_api.USER: registry.account(), ray_api.COMMAND: command}
    ray_client.submit(server, RayJobSubmission(name, command, environment, {}, shown))
    # From now on the operator follows the job: its end, its time, its cluster.
    kubectl.run("patch", "rayjob", name, "--type=merge", "-p", json.dumps({"spec": {"jobId": name}}))
    return Found(server, ray_api.one(server, name))


def _follow(entry: Found) -> int:
    def write(text: str) -> None:
        sys.stdout.buffer.write(text.encode(errors="replace"))
        sys.stdout.buffer.flush()

    try:
        ended = follow_job(entry, write)
    except KeyboardInterrupt:
        tell(f"\ndetached: job {entry.job.id} goes on\n  rayhpc job logs -f {entry.job.id}")
        return _INTERRUPTED
    tell(f"job {ended.id} {ended.words}")
    return ended.exit_code


@kube.command("delete")
@_NAMES
@click.option("--prefix", default="", help="All of mine whose names begin so.")
@click.option("--all", "every", is_flag=True, help="All of mine.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_with(*_PLACE)
def delete(names: tuple[str, ...], prefix: str, every: bool, yes: bool, **said: Any) -> None:
    """Delete clusters and jobs, after they were shown."""
    if bool(names) + bool(prefix) + every != 1:
        raise refused("what to delete is not said, or said twice", "names, --prefix or --all", "rayhpc kube list")
    kubectl = _kubectl(said)
    found = objects.meant(kubectl, names) if names else objects.mine(kubectl, registry.account())
    wanted = [each for each in found if objects.name(each).startswith(prefix)]
    if not wanted:
        tell("nothing to delete")
        return
    _print(wanted)
    if not yes:
        click.confirm(f"delete {counted(len(wanted), 'object')}?", abort=True, err=True)
    clusters = objects.remove(kubectl, wanted)
    tell(f"deleted: {', '.join(map(objects.name, wanted))}")
    _forget([each for each in registry.every() if each.id in clusters])


def _forget(entries: Iterable[ClusterEntry]) -> None:
    gone = list(entries)
    registry.forget_seen(gone)
    for entry in gone:
        tell(f"{entry.batch_job_id} is out of the registry")
    file = Path(_ADDRESS_FILE).expanduser()
    if gone and file.exists():
        address_file.save(file, [], [entry.dashboard for entry in gone])
